use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::{Op, Store, StoreError, Txn};

use super::cluster::{Cluster, DEADLINE, SEGMENT_BYTES, until, value};
use super::memory_disk::{Crash, MemoryDisk};
use crate::{EmbeddedStore, Options};

async fn open(directory: &std::path::Path, disk: &MemoryDisk) -> Result<Arc<EmbeddedStore>, crate::OpenError> {
    EmbeddedStore::open_on(Options::alone(directory), Arc::new(disk.clone()), SEGMENT_BYTES).await
}

/// A single voter that is written to and stopped in the middle, over and over; `Err` says what was acknowledged and is gone.
async fn crash_rounds(lie_about: Option<&'static str>) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = MemoryDisk::default();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..8_u64 {
        if let Some(prefix) = lie_about.filter(|_| round == 3) {
            disk.lie_about(prefix);
        }
        let store = open(directory.path(), &disk).await.map_err(|error| format!("not opened: {error}"))?;
        let snapshot = store.snapshot("/", DEADLINE).await.unwrap();
        for (key, expected) in &acknowledged {
            let found = snapshot.get(key).map(|item| String::from_utf8_lossy(&item.value).into_owned());
            if found.as_ref() != Some(expected) {
                store.shutdown().await;
                return Err(format!("round {round}: {key} is {found:?}, acknowledged was {expected}"));
            }
        }
        for number in 0..40 {
            let (key, value) = (format!("/key/{number}"), format!("{round}-{}", "x".repeat(60)));
            store.txn(Txn::of(vec![Op::put(key.clone(), value.clone())]), DEADLINE).await.unwrap();
            acknowledged.insert(key, value);
        }
        if round % 3 == 2 {
            store.node.raft.trigger().snapshot().await.unwrap();
            let applied = store.status().applied_index;
            until("a snapshot", || {
                let metrics = store.node.raft.metrics();
                let snapshot = openraft::async_runtime::WatchReceiver::borrow_watched(&metrics).snapshot;
                (snapshot.map(|log_id| log_id.index) >= applied).then_some(())
            })
            .await;
            store.node.raft.trigger().purge_log(applied.unwrap()).await.unwrap();
            until("the log to be purged", || {
                let metrics = store.node.raft.metrics();
                let purged = openraft::async_runtime::WatchReceiver::borrow_watched(&metrics).purged;
                (purged.map(|log_id| log_id.index) >= applied).then_some(())
            })
            .await;
        }
        // The host stops here: what the store still does goes to a disk that is not there any more.
        disk = disk.crash(if round % 2 == 0 { Crash::Forget } else { Crash::Tear(round) });
        store.shutdown().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_forgets_what_was_not_synced_loses_nothing_acknowledged() {
    crash_rounds(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_less_and_the_same_rounds_lose_something() {
    for kind in ["log-", "snapshot"] {
        let lost = crash_rounds(Some(kind)).await;
        assert!(lost.is_err(), "the missing sync of {kind:?} was not noticed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_voter_and_the_others_go_on() {
    let mut cluster = Cluster::new(3);
    let disks: Vec<MemoryDisk> = (0..3).map(|member| cluster.on_memory(member)).collect();
    for member in 0..3 {
        cluster.start(member).await;
    }
    cluster.formed().await;
    let leader = cluster.leader().await;
    disks[leader].set_failing(true);
    let broken = cluster.stores[&leader].clone();
    // The leader's own sync fails; the others may have committed it all the same.
    match broken.txn(Txn::of(vec![Op::put("/a", "1")]), DEADLINE).await {
        Ok(_) | Err(StoreError::Indeterminate { .. }) => {}
        other => panic!("a failed sync of the leader: {other:?}"),
    }
    until("the voter to stop", || broken.status().fatal).await;
    disks[leader].set_failing(false);
    let store = cluster.stores[&((leader + 1) % 3)].clone();
    store.txn(Txn::of(vec![Op::put("/b", "2")]), DEADLINE).await.unwrap();
    assert!(broken.status().fatal.unwrap().contains("the test's disk fails"), "{:?}", broken.status().fatal);
    assert_eq!(value(store.as_ref(), "/b").await, Some(b"2".to_vec()));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_hands_over() {
    let mut cluster = Cluster::new(3);
    let disks: Vec<MemoryDisk> = (0..3).map(|member| cluster.on_memory(member)).collect();
    for member in 0..3 {
        cluster.start(member).await;
    }
    cluster.formed().await;
    let leader = cluster.leader().await;
    disks[leader].set_delay(Duration::from_millis(2_500));
    let slow = cluster.stores[&leader].clone();
    slow.txn(Txn::of(vec![Op::put("/a", "1")]), DEADLINE).await.unwrap();
    let next = cluster.leader_but(Some(leader)).await;
    assert_ne!(next, leader);
    assert_eq!(slow.status().fatal, None, "it handed over, it did not stop");
    disks[leader].set_delay(Duration::ZERO);
    cluster.shutdown().await;
}

/// As after a burst of writes to the one disk that all hosts have their data on: nobody could do better, and an election would have
/// to wait for that disk, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_are_all_slow_keep_their_leader() {
    let mut cluster = Cluster::new(3);
    let disks: Vec<MemoryDisk> = (0..3).map(|member| cluster.on_memory(member)).collect();
    for member in 0..3 {
        cluster.start(member).await;
    }
    cluster.formed().await;
    let leader = cluster.leader().await;
    let before = cluster.stores[&leader].status();
    for disk in &disks {
        disk.set_delay(Duration::from_millis(1_700));
    }
    let follower = cluster.stores[&((leader + 1) % 3)].clone();
    for number in 0..4 {
        follower.txn(Txn::of(vec![Op::put("/a", number.to_string())]), DEADLINE).await.unwrap();
    }
    let after = cluster.stores[&leader].status();
    assert_eq!((after.leader, after.term), (before.leader, before.term), "an election beside slow disks");
    for disk in &disks {
        disk.set_delay(Duration::ZERO);
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_change_costs_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = open(directory.path(), &disk).await.unwrap();
    store.txn(Txn::of(vec![Op::put("/a", "1")]), DEADLINE).await.unwrap();
    let before = disk.syncs();
    for _ in 0..50 {
        store.txn(Txn::of(vec![Op::put("/a", "1")]), DEADLINE).await.unwrap();
    }
    assert_eq!(disk.syncs() - before, 50);
    store.shutdown().await;
}
