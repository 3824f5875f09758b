//! The memory store against the suite that every store must pass.

use std::time::Duration;

use pgbaton_store::conformance::{self, Harness};
use pgbaton_store::{
    BoxFuture, Compare, ManualClock, MemoryStore, Op, Outage, Session, Store, StoreError, Terms, Txn, WatchItem,
};
use pgbaton_types::{BootTime, Revision};

struct Memory {
    clock: ManualClock,
    store: MemoryStore,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::default();
        let shown = clock.clone();
        Self { clock, store: MemoryStore::new(move || shown.now()) }
    }
}

impl Harness for Memory {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn pass(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(duration);
        self.store.tick();
        Box::pin(std::future::ready(()))
    }
}

const DEADLINE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::all(&Memory::new()).await;
}

#[tokio::test]
async fn a_lease_ends_at_its_time_and_not_before() {
    let memory = Memory::new();
    let lease = memory.store.lease_grant(Duration::from_secs(10), DEADLINE).await.unwrap();
    memory.store.txn(Txn::of(vec![Op::put_leased("/a", "x", lease.id)]), DEADLINE).await.unwrap();
    memory.pass(Duration::from_millis(9_999)).await;
    assert_eq!(memory.store.snapshot("/", DEADLINE).await.unwrap().items.len(), 1);
    memory.pass(Duration::from_millis(1)).await;
    assert_eq!(memory.store.snapshot("/", DEADLINE).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn a_session_takes_along_what_is_to_be_written_with_its_value() {
    let memory = Memory::new();
    let session = Session::new("/a".to_owned());
    let terms = Terms { ttl: Duration::from_secs(10), deadline: DEADLINE, now: BootTime(0) };
    let more = |compare| Some(Txn::when(vec![compare], vec![Op::put("/b", "x")]));
    let store = &memory.store;
    let revision = || async { store.snapshot("/", DEADLINE).await.unwrap().revision };

    let mut left = more(Compare::absent("/b"));
    session.publish_with(store, b"1", &mut left, terms).await.unwrap();
    assert!(left.is_some(), "the first value is written with what begins the session");
    let before = revision().await;
    session.publish_with(store, b"2", &mut left, terms).await.unwrap();
    assert_eq!((left, revision().await.0), (None, before.0 + 1));

    // What may not be written keeps nobody from writing the own value.
    session.publish_with(store, b"3", &mut more(Compare::absent("/b")), terms).await.unwrap();
    let items = store.snapshot("/", DEADLINE).await.unwrap().items;
    let written: Vec<_> = items.iter().map(|pair| (pair.key.as_str(), pair.value.as_slice())).collect();
    assert_eq!(written, [("/a", &b"3"[..]), ("/b", b"x")]);

    // With nothing of its own to write it leaves the rest, and a session that has ended is begun anew.
    let mut left = more(Compare::absent("/c"));
    session.publish_with(store, b"3", &mut left, terms).await.unwrap();
    assert!(left.is_some());
    memory.pass(Duration::from_secs(11)).await;
    session.publish_with(store, b"4", &mut left, terms).await.unwrap();
    assert!(left.is_some());
    assert_eq!(store.snapshot("/a", DEADLINE).await.unwrap().items[0].value, b"4");
}

#[tokio::test]
async fn an_outage_says_whether_something_may_have_changed() {
    let memory = Memory::new();
    memory.store.set_outage(Some(Outage::Unavailable));
    let put = || Txn::when(vec![Compare::absent("/a")], vec![Op::put("/a", "x")]);
    let error = memory.store.txn(put(), DEADLINE).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }) && !error.is_indeterminate());
    memory.store.set_outage(Some(Outage::AnswersLost));
    assert!(memory.store.txn(put(), DEADLINE).await.unwrap_err().is_indeterminate());
    memory.store.set_outage(None);
    assert!(!memory.store.txn(put(), DEADLINE).await.unwrap().succeeded, "the lost answer was a yes");
}

#[tokio::test]
async fn a_watcher_that_is_too_far_behind_is_told() {
    let memory = Memory::new();
    let mut slow = memory.store.watch("/", Revision(2), DEADLINE).await.unwrap();
    for _ in 0..300 {
        memory.store.txn(Txn::of(vec![Op::put("/a", "x")]), DEADLINE).await.unwrap();
    }
    let mut last = Revision(1);
    while let WatchItem::Batch { revision, .. } = slow.next().await {
        assert_eq!(revision.0, last.0 + 1, "a change was left out");
        last = revision;
    }
    assert!(last.0 > 1 && last.0 < 301, "the watch went through to {last}");
    let mut late = memory.store.watch("/", Revision(2), DEADLINE).await.unwrap();
    assert!(matches!(late.next().await, WatchItem::Compacted { .. }));
}
