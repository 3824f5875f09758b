//! The embedded store through the client of etcd's protocol: it does what every store must do.

use std::path::Path;
use std::time::Duration;

use pgbaton_store::Store;
use pgbaton_store::conformance::{self, RealTime};
use pgbaton_store_etcd::{EtcdStore, Options};
use pgbaton_testkit::Voters;

/// Far above what a store takes to form.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_does_behind_its_face_what_every_store_must_do() {
    let program = Path::new(env!("CARGO_BIN_EXE_pgbaton"));
    let voters = Voters::on_loopback(program, &std::env::temp_dir(), 3).unwrap();
    let store = EtcdStore::new(&Options { endpoints: voters.endpoints(), ..Options::default() }).unwrap();
    store.snapshot("/", LIMIT).await.unwrap();
    conformance::all(&RealTime(store)).await;
}
