use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::conformance::{self, Harness};
use pgbaton_store::{BoxFuture, Op, Store, StoreError, Txn, Voter};

use super::cluster::{Cluster, DEADLINE, until, value};
use crate::{EmbeddedStore, Introduction, OpenError, Options, PeerFact};

/// A store whose time passes by itself.
struct Running(Arc<EmbeddedStore>);

impl Harness for Running {
    fn store(&self) -> &dyn Store {
        self.0.as_ref()
    }

    fn pass(&self, _duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    store.txn(Txn::of(vec![Op::put(key, value)]), DEADLINE).await.unwrap();
}

fn voter_ids(voters: &[Voter]) -> BTreeSet<u64> {
    voters.iter().map(|voter| voter.id).collect()
}

#[tokio::test]
async fn a_single_voter_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(Options::alone(directory.path().join("raft"))).await.unwrap();
    conformance::all(&Running(Arc::clone(&store))).await;
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_conform_through_leader_and_follower() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    conformance::all(&Running(Arc::clone(&cluster.stores[&follower]))).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_in_every_order_and_only_when_all_are_there() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut cluster = Cluster::new(3);
        cluster.start(order[0]).await;
        cluster.start(order[1]).await;
        // Both have asked the third one, in vain, and know each other: nothing may come of it.
        until("two answers", || {
            let facts = cluster.stores.values().map(|store| store.peer_facts());
            let answers = |facts: Vec<PeerFact>| facts.iter().filter(|fact| fact.answer.is_ok()).count();
            facts.map(answers).all(|count| count == 1).then_some(())
        })
        .await;
        for store in cluster.stores.values() {
            let facts = store.refresh_peer_facts(Duration::from_millis(100)).await;
            assert!(
                facts.iter().all(|fact| fact.answer.as_ref().is_ok_and(|peer| !peer.formed) || fact.answer.is_err())
            );
            assert_eq!(store.status().voters, [], "formed without the third member");
        }
        cluster.start(order[2]).await;
        cluster.formed().await;
        cluster.leader().await;
        let clusters: BTreeSet<Option<u64>> = cluster.stores.values().map(|store| store.status().cluster_id).collect();
        assert_eq!(clusters.len(), 1, "one cluster: {clusters:?}");
        let store = &cluster.stores[&order[0]];
        put(store.as_ref(), "/a", "1").await;
        let facts: Vec<Introduction> =
            store.refresh_peer_facts(DEADLINE).await.into_iter().filter_map(|fact| fact.answer.ok()).collect();
        assert_eq!(facts.len(), 2);
        for fact in facts {
            let member = cluster.stores.iter().find(|(_, store)| store.status().node_id == fact.node_id).unwrap().0;
            assert_eq!(fact.host_facts, Some(vec![u8::try_from(*member).unwrap()]));
        }
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_back_in_any_order_with_everything() {
    let mut cluster = Cluster::started(3).await;
    put(cluster.stores[&0].as_ref(), "/a", "1").await;
    let voters = voter_ids(&cluster.stores[&0].members());
    for member in 0..3 {
        cluster.stop(member).await;
    }
    for member in [2, 0] {
        cluster.start(member).await;
    }
    // Two of three are a majority.
    assert_eq!(value(cluster.stores[&2].as_ref(), "/a").await, Some(b"1".to_vec()));
    cluster.start(1).await;
    cluster.formed().await;
    assert_eq!(value(cluster.stores[&1].as_ref(), "/a").await, Some(b"1".to_vec()));
    assert_eq!(voter_ids(&cluster.stores[&1].members()), voters);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_member_joins_as_a_new_voter_in_its_own_place() {
    let mut cluster = Cluster::started(3).await;
    put(cluster.stores[&0].as_ref(), "/a", "1").await;
    let emptied = cluster.leader().await;
    let old = cluster.stores[&emptied].status().node_id;
    cluster.stop(emptied).await;
    std::fs::remove_dir_all(cluster.directory_of(emptied)).unwrap();
    cluster.start(emptied).await;
    cluster.formed().await;
    let store = &cluster.stores[&emptied];
    let new = store.status().node_id;
    assert_ne!(new, old);
    assert_eq!(value(store.as_ref(), "/a").await, Some(b"1".to_vec()));
    let voters = voter_ids(&store.members());
    assert!(voters.len() == 3 && voters.contains(&new) && !voters.contains(&old), "{voters:x?}");
    // Its vote counts: with one of the others gone the store goes on.
    cluster.stop((emptied + 1) % 3).await;
    put(cluster.stores[&emptied].as_ref(), "/b", "2").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_lost_and_nothing_is_formed_anew() {
    let mut cluster = Cluster::started(3).await;
    put(cluster.stores[&0].as_ref(), "/a", "1").await;
    for member in [0, 1] {
        cluster.stop(member).await;
        std::fs::remove_dir_all(cluster.directory_of(member)).unwrap();
    }
    for member in [0, 1] {
        cluster.start(member).await;
    }
    let short = Duration::from_millis(1_500);
    for store in cluster.stores.values() {
        let error = store.txn(Txn::of(vec![Op::put("/a", "2")]), short).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. } | StoreError::Indeterminate { .. }), "{error:?}");
    }
    for member in [0, 1] {
        assert_eq!(cluster.stores[&member].status().voters, [], "two pristine members formed a store of their own");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over_and_knows_everything() {
    let mut cluster = Cluster::started(3).await;
    for round in 0..3_u32 {
        let leader = cluster.leader().await;
        let other = cluster.stores[&((leader + 1) % 3)].clone();
        put(other.as_ref(), "/round", &round.to_string()).await;
        cluster.stop(leader).await;
        // A call in the middle of the election waits for its end.
        assert_eq!(value(other.as_ref(), "/round").await, Some(round.to_string().into_bytes()));
        let next = cluster.leader_but(Some(leader)).await;
        assert_ne!(next, leader);
        cluster.start(leader).await;
        cluster.formed().await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_term_of_an_isolated_voter_does_not_climb() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let isolated = (leader + 1) % 3;
    cluster.stop(leader).await;
    cluster.stop((leader + 2) % 3).await;
    let store = cluster.stores[&isolated].clone();
    let term = store.status().term;
    // Time for several elections; a call without a leader waits for its whole deadline.
    let error = store.snapshot("/", Duration::from_secs(4)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(store.status().term, term);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_leaves_the_holder_of_the_baton() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    put(cluster.stores[&leader].as_ref(), "/a", "1").await;
    cluster.stores[&leader].prefer_not_leading(true);
    let next = cluster.leader_but(Some(leader)).await;
    assert_ne!(next, leader);
    put(cluster.stores[&leader].as_ref(), "/a", "2").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_member_gets_a_snapshot() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.stop(behind).await;
    let store = cluster.stores[&leader].clone();
    for round in 0..20 {
        let key = format!("/bulk/{round}");
        store.txn(Txn::of(vec![Op::put(key, vec![7; 10_000])]), DEADLINE).await.unwrap();
    }
    let through = store.status().applied_index.unwrap();
    store.node.raft.trigger().snapshot().await.unwrap();
    until("the log to be purged up to the snapshot", || {
        let snapshot = store.node.raft.metrics();
        let snapshot = openraft::async_runtime::WatchReceiver::borrow_watched(&snapshot).snapshot;
        (snapshot.map(|log_id| log_id.index) >= Some(through)).then_some(())
    })
    .await;
    store.node.raft.trigger().purge_log(through).await.unwrap();
    cluster.start(behind).await;
    let store = cluster.stores[&behind].clone();
    until("the snapshot to be installed", || (store.status().applied_index >= Some(through)).then_some(())).await;
    cluster.stop(behind).await;
    cluster.start(behind).await;
    let snapshot = cluster.stores[&behind].snapshot("/bulk/", DEADLINE).await.unwrap();
    assert_eq!(snapshot.items.len(), 20);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_directory_that_is_in_use_or_not_whole_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft");
    let store = EmbeddedStore::open(Options::alone(&path)).await.unwrap();
    let error = EmbeddedStore::open(Options::alone(&path)).await.unwrap_err();
    assert!(matches!(error, OpenError::Lock { .. }), "{error:?}");
    store.formed().wait_for(|formed| *formed).await.unwrap();
    store.shutdown().await;
    for name in ["log-0000000000000001", "spare"] {
        std::fs::remove_file(path.join(name)).unwrap();
    }
    let error = EmbeddedStore::open(Options::alone(&path)).await.unwrap_err();
    assert!(error.to_string().contains("the log is missing"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_and_a_missing_password_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let at = |address: &str| Options {
        listen: Some(crate::Listen::At(address.to_owned())),
        self_address: address.to_owned(),
        ..Options::alone(directory.path().join("raft"))
    };
    let error = EmbeddedStore::open(at(&address)).await.unwrap_err();
    assert!(matches!(&error, OpenError::Listen { .. }) && error.to_string().contains(&address), "{error}");
    let error = EmbeddedStore::open(at("0.0.0.0:0")).await.unwrap_err();
    assert!(error.to_string().contains("no password is set"), "{error}");
}
