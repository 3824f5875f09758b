use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::{EventKind, LeaseId, Op, Renewal, Store, Txn, Watch, WatchItem};
use pgbaton_types::{BootTime, Revision};

use super::cluster::{Cluster, DEADLINE, until};
use super::memory_disk::MemoryDisk;
use crate::EmbeddedStore;
use crate::state_machine::now;

/// Longer than an election on a busy machine.
const TTL: Duration = Duration::from_secs(4);

/// A key that is held by renewing its lease, with a watch that sees it go.
pub(super) struct Held {
    store: Arc<EmbeddedStore>,
    lease: LeaseId,
    created: Revision,
    /// When the last renewal that was answered with yes was sent.
    renewed: BootTime,
    watch: Watch,
}

impl Held {
    pub(super) async fn take(store: Arc<EmbeddedStore>) -> Self {
        let renewed = now();
        let lease = store.lease_grant(TTL, DEADLINE).await.unwrap().id;
        let taken = store.txn(Txn::of(vec![Op::put_leased("/held", "me", lease)]), DEADLINE).await.unwrap();
        let from = Revision(taken.revision.0 + 1);
        let watch = store.watch("/", from, DEADLINE).await.unwrap();
        Self { store, lease, created: taken.revision, renewed, watch }
    }

    /// Renews for longer than the time to live; nothing may happen to the key.
    pub(super) async fn renew_for_a_while(&mut self) {
        let end = now() + TTL + TTL / 4;
        while now() < end {
            let sent = now();
            let renewal =
                Renewal { lease: self.lease, leader_key: "/held".to_owned(), epoch_create_revision: self.created };
            let deadline = (self.renewed + TTL).since(sent);
            self.store.renew(renewal, deadline).await.unwrap();
            self.renewed = sent;
            if let Ok(item) = tokio::time::timeout(TTL / 20, self.watch.next()).await {
                panic!("the key was renewed in time, and yet: {item:?}");
            }
        }
    }

    /// Renews no more: the key goes, not before its time, and before that of another lease that was granted later with half as
    /// long again.
    pub(super) async fn let_go(mut self) {
        let later = self.store.lease_grant(TTL + TTL / 2, DEADLINE).await.unwrap().id;
        self.store.txn(Txn::of(vec![Op::put_leased("/later", "x", later)]), DEADLINE).await.unwrap();
        let mut gone = Vec::new();
        while gone.len() < 2 {
            let item = tokio::time::timeout(DEADLINE, self.watch.next()).await.expect("leases end");
            let WatchItem::Batch { events, .. } = item else { panic!("the watch ended: {item:?}") };
            for event in events {
                if let EventKind::Delete { key } = event.kind {
                    gone.push((key, now()));
                }
            }
        }
        assert_eq!(gone[0].0, "/held");
        assert!(gone[0].1 >= self.renewed + TTL, "ended {:?} after its last renewal", gone[0].1.since(self.renewed));
        assert_eq!(gone[1].0, "/later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_keep_their_time_when_the_leader_goes() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let store = cluster.stores[&((leader + 1) % 3)].clone();
    let mut held = Held::take(store).await;
    held.renew_for_a_while().await;
    cluster.stop(leader).await;
    held.renew_for_a_while().await;
    cluster.start(leader).await;
    held.renew_for_a_while().await;
    held.let_go().await;
    cluster.shutdown().await;
}

/// What a leader has applied is in memory only: when it is back it must not lead on as if nothing had happened, and say that what it has
/// not applied again does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_restarted_knows_what_it_had_acknowledged() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let held = Held::take(cluster.stores[&((leader + 1) % 3)].clone()).await;
    for round in 0..10 {
        let leader = cluster.leader().await;
        let key = format!("/round/{round}");
        cluster.stores[&leader].txn(Txn::of(vec![Op::put(&key, "there")]), DEADLINE).await.unwrap();
        cluster.stop(leader).await;
        let store = cluster.start(leader).await;
        let renewal =
            Renewal { lease: held.lease, leader_key: "/held".to_owned(), epoch_create_revision: held.created };
        let (renewed, read) = tokio::join!(store.renew(renewal, DEADLINE), store.snapshot("/", DEADLINE));
        renewed.unwrap();
        let read = read.unwrap();
        assert!(read.get(&key).is_some() && read.get("/held").is_some(), "round {round}: {read:?}");
    }
    cluster.shutdown().await;
}

/// A renewal that is under way while the leadership is given away may fail, but must not be told that its lease is gone: its holder
/// would give up a server that is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_renewal_is_refused_while_the_leadership_moves() {
    let cluster = Cluster::started(3).await;
    let mut leader = cluster.leader().await;
    let store = cluster.stores[&((leader + 1) % 3)].clone();
    let held = Held::take(store).await;
    let renewal = || Renewal { lease: held.lease, leader_key: "/held".to_owned(), epoch_create_revision: held.created };
    let renewing: Vec<_> = cluster
        .stores
        .values()
        .flat_map(|store| std::iter::repeat_n(store, 20))
        .map(|store| {
            let (store, renewal) = (Arc::clone(store), renewal());
            tokio::spawn(async move {
                loop {
                    let refused = store.renew(renewal.clone(), DEADLINE).await.err().filter(|e| e.refusal().is_some());
                    if let Some(error) = refused {
                        return error;
                    }
                }
            })
        })
        .collect();
    for _ in 0..60 {
        let next = cluster.stores[&((leader + 1) % 3)].status().node_id;
        cluster.stores[&leader].node.raft.trigger().transfer_leader(next).await.unwrap();
        leader = cluster.leader_but(Some(leader)).await;
    }
    for task in renewing {
        task.abort();
        if let Ok(error) = task.await {
            panic!("a lease that was there: {error}");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_keep_their_time_on_slow_disks() {
    let mut cluster = Cluster::new(3);
    let disks: Vec<MemoryDisk> = (0..3).map(|member| cluster.on_memory(member)).collect();
    for member in 0..3 {
        cluster.start(member).await;
    }
    cluster.formed().await;
    let leader = cluster.leader().await;
    let mut held = Held::take(cluster.stores[&leader].clone()).await;
    for disk in &disks {
        disk.set_delay(Duration::from_millis(150));
    }
    // Something is always being written; renewals do not wait for it.
    let writer = cluster.stores[&leader].clone();
    let writing = tokio::spawn(async move {
        loop {
            writer.txn(Txn::of(vec![Op::delete("/nothing"), Op::get("/x")]), DEADLINE).await.unwrap();
        }
    });
    held.renew_for_a_while().await;
    writing.abort();
    held.let_go().await;
    for disk in &disks {
        disk.set_delay(Duration::ZERO);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_writes_nothing() {
    let mut cluster = Cluster::new(1);
    let disk = cluster.on_memory(0);
    let store = cluster.start(0).await;
    cluster.formed().await;
    let mut held = Held::take(store.clone()).await;
    until("the log to be quiet", || (store.status().applied_index == store.status().last_log_index).then_some(()))
        .await;
    let before = disk.syncs();
    held.renew_for_a_while().await;
    assert_eq!(disk.syncs(), before);
    cluster.shutdown().await;
}
