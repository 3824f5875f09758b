//! The client beside a real etcd: what every store must do, and what endpoints that fail must not cost.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use pgbaton_store::conformance::{self, RealTime};
use pgbaton_store::{Op, Refusal, Renewal, Store, Txn, Watch, WatchItem};
use pgbaton_store_etcd::{EtcdStore, Options};
use pgbaton_testkit::Etcd;
use pgbaton_types::Revision;
use rustix::process::Signal;

/// Far above what anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

fn client(endpoints: Vec<String>) -> EtcdStore {
    EtcdStore::new(&Options { endpoints, ..Options::default() }).unwrap()
}

/// Members that begin on a disk that takes most of a second for each write elect again and again, each a little later.
const FOUND_EACH_OTHER: Duration = Duration::from_secs(45);

/// Waits until the store answers: members of an etcd take connections before they have found each other.
async fn answers(store: &EtcdStore) {
    store.snapshot("/", FOUND_EACH_OTHER).await.unwrap();
}

async fn value(store: &EtcdStore, key: &str) -> Option<String> {
    let snapshot = store.snapshot(key, DEADLINE).await.unwrap();
    snapshot.get(key).map(|found| String::from_utf8(found.value.clone()).unwrap())
}

/// The revision of the next change that a watch sees.
async fn next_change(watch: &mut Watch) -> Revision {
    let item = tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch goes on");
    let WatchItem::Batch { revision, events } = item else { panic!("the watch ended: {item:?}") };
    assert_eq!(events.len(), 1, "{events:?}");
    revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_does_what_every_store_must_do() {
    let etcd = Etcd::start(1).unwrap();
    let store = client(etcd.endpoints());
    answers(&store).await;
    conformance::all(&RealTime(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_gone_or_silent_costs_no_answer() {
    let mut etcd = Etcd::start(3).unwrap();
    // Who uses a member first. That may be etcd's leader, and be given a change that nobody knows the end of.
    let first_of = |etcd: &Etcd, first: usize| client((0..3).map(|next| etcd.endpoint((first + next) % 3)).collect());
    let (gone, silent) = (0, 1);
    let store = first_of(&etcd, gone);
    answers(&store).await;
    let first = conformance::put_once(&store, "/a", "1", None).await;
    let mut watch = store.watch("/", Revision(first.0 + 1), DEADLINE).await.unwrap();
    etcd.kill(gone);
    assert_eq!(value(&store, "/a").await.as_deref(), Some("1"));
    let second = conformance::put_once(&store, "/a", "2", Some(first)).await;
    assert_eq!(next_change(&mut watch).await, second);

    etcd.start_member(gone).unwrap();
    // It counts for the majority again.
    answers(&client(vec![etcd.endpoint(gone)])).await;
    let store = first_of(&etcd, silent);
    let mut other_watch = store.watch("/", second, DEADLINE).await.unwrap();
    assert_eq!(next_change(&mut other_watch).await, second, "it has begun");
    etcd.signal(silent, Signal::STOP).unwrap();
    assert_eq!(value(&store, "/a").await.as_deref(), Some("2"));
    let third = conformance::put_once(&store, "/a", "3", Some(second)).await;
    assert_eq!(next_change(&mut other_watch).await, third, "while its first endpoint is silent");
    etcd.signal(silent, Signal::CONT).unwrap();
    assert_eq!(next_change(&mut watch).await, third, "each change once, in order");
}

/// etcd 3.4.23 gets a new lease for each renewal: whoever was killed just then left a lease behind that its successor does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_goes_on_from_whichever_lease_the_key_was_moved_to() {
    let etcd = Etcd::start(1).unwrap();
    let (before, after) = (client(etcd.endpoints()), client(etcd.endpoints()));
    answers(&before).await;
    let lease = before.lease_grant(Duration::from_secs(30), DEADLINE).await.unwrap().id;
    let created = before.txn(Txn::of(vec![Op::put_leased("/leader", "a", lease)]), DEADLINE).await.unwrap().revision;
    let renewal = Renewal { lease, leader_key: "/leader".to_owned(), epoch_create_revision: created };
    let moved = before.renew(renewal.clone(), DEADLINE).await.unwrap();
    assert_ne!(moved, lease);
    // The one that was moved from ends a moment later: both orders.
    let again = after.renew(renewal.clone(), DEADLINE).await.unwrap();
    assert!(again != lease && again != moved);
    assert_eq!(after.lease_time_to_live(again, DEADLINE).await.unwrap(), Duration::from_secs(30));
    before.lease_revoke(moved, DEADLINE).await.ok();
    let third = client(etcd.endpoints()).renew(renewal.clone(), DEADLINE).await.unwrap();
    assert_eq!(value(&after, "/leader").await.as_deref(), Some("a"));
    // Another creation is another reign.
    after.txn(Txn::of(vec![Op::delete("/leader")]), DEADLINE).await.unwrap();
    after.txn(Txn::of(vec![Op::put_leased("/leader", "b", third)]), DEADLINE).await.unwrap();
    let refused = after.renew(Renewal { lease: third, ..renewal }, DEADLINE).await.unwrap_err();
    assert!(matches!(refused.refusal(), Some(Refusal::NotHolder { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_there_is_no_answer_and_it_says_so() {
    let mut etcd = Etcd::start(3).unwrap();
    let store = client(etcd.endpoints());
    answers(&store).await;
    conformance::put_once(&store, "/a", "1", None).await;
    etcd.kill(1);
    etcd.kill(2);
    let read = store.snapshot("/", Duration::from_secs(3)).await.unwrap_err();
    assert!(!read.is_indeterminate(), "{read:?}");
    let change = store.txn(Txn::of(vec![Op::put("/a", "2")]), Duration::from_secs(3)).await.unwrap_err();
    assert!(change.refusal().is_none(), "{change:?}");
    etcd.start_member(1).unwrap();
    assert!(value(&store, "/a").await.is_some());
}
