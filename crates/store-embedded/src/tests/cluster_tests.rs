use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::conformance::{self, Harness};
use pgbaton_store::{BoxFuture, Store};

use super::cluster::Cluster;
use crate::{EmbeddedStore, Options};

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
