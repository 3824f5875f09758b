//! What every store must do, as functions over any [`Store`]: run by the memory store, the embedded store on one and
//! on three nodes, and later by the clients of other stores.
//!
//! Each check works below a prefix of its own, so that all can run on one store, and panics with what was wrong.

use std::time::Duration;

use pgbaton_types::Revision;
use tokio::time::Instant;

use crate::{
    BoxFuture, Compare, EventKind, LeaseId, Op, OpResponse, Refusal, Renewal, Store, StoreError, Txn, Watch, WatchItem,
};

/// The deadline of each call: far above what a call takes, below what a test may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// The longest wait for a change to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// The time to live of leases that must run out. The memory store's clock is moved by this, the others wait for it.
const SHORT_TTL: Duration = Duration::from_millis(1_500);

/// So often a lease may be renewed too late because the machine stood still.
const TRIALS: u32 = 5;

/// A store under test.
pub trait Harness: Send + Sync {
    /// The store.
    fn store(&self) -> &dyn Store;

    /// Lets `duration` pass for the store's leases; does nothing where time passes by itself.
    fn pass(&self, duration: Duration) -> BoxFuture<'_, ()>;
}

/// A store in real time, which passes by itself.
#[derive(Debug)]
pub struct RealTime<S>(pub S);

impl<S: Store> Harness for RealTime<S> {
    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn pass(&self, _duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Puts a value exactly once and returns the revision of that change; `known` is the key's last change, none where it does not exist.
///
/// A store whose leader is lost meanwhile cannot always say what came of a change. Whoever is told so looks, and asks again only if
/// nothing has come of it: the comparison makes a second change impossible.
pub async fn put_once(store: &dyn Store, key: &str, value: &str, known: Option<Revision>) -> Revision {
    let unchanged = known.map_or_else(|| Compare::absent(key), |revision| Compare::modified_at(key, revision));
    loop {
        let change = Txn::when(vec![unchanged.clone()], vec![Op::put(key, value)]);
        let refused = match store.txn(change, DEADLINE).await {
            Ok(done) if done.succeeded => return done.revision,
            Ok(_) => true,
            Err(error) if error.is_indeterminate() => false,
            Err(error) => panic!("{key} is not put: {error:?}"),
        };
        let snapshot = store.snapshot(key, DEADLINE).await.expect("whoever may not know what came of it can look");
        match snapshot.get(key) {
            Some(found) if Some(found.mod_revision) != known => {
                assert_eq!(found.value, value.as_bytes(), "nobody else writes {key}");
                return found.mod_revision;
            }
            found => assert!(!refused, "{key} is as it was known, and a change of it is refused: {found:?}"),
        }
    }
}

/// Runs every check, one after the other.
pub async fn all(harness: &dyn Harness) {
    let store = harness.store();
    keys_have_revisions(store).await;
    compares_decide(store).await;
    a_put_keeps_the_create_revision(store).await;
    contradictions_are_refused(store).await;
    a_key_may_be_in_both_branches(store).await;
    a_transaction_is_done_whole_or_not_at_all(store).await;
    operations_see_each_other(store).await;
    a_revoked_lease_takes_its_keys(store).await;
    renewal_wants_lease_and_key(store).await;
    watches_see_every_change_in_order(store).await;
    a_watch_from_the_past_sees_it_or_says_so(store).await;
    one_of_many_creates_a_key(harness).await;
    a_lease_that_is_not_renewed_ends_and_one_that_is_does_not(harness).await;
    the_health_names_a_leader(store).await;
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.txn(Txn::of(vec![Op::put(key, value)]), DEADLINE).await.expect("put").revision
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Refusal {
    match result {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn next_of(watch: &mut Watch, what: &str) -> WatchItem {
    tokio::time::timeout(SEEN_WITHIN, watch.next())
        .await
        .unwrap_or_else(|_| panic!("{what} was not seen by the watch within {SEEN_WITHIN:?}"))
}

/// Create revision, modification revision and version go as etcd's do; a delete of nothing changes nothing.
pub async fn keys_have_revisions(store: &dyn Store) {
    let first = put(store, "/c/rev/a", "1").await;
    let second = put(store, "/c/rev/a", "2").await;
    put(store, "/c/rev/b", "1").await;
    assert!(second > first);
    let snapshot = store.snapshot("/c/rev/", DEADLINE).await.expect("snapshot");
    let keys: Vec<&str> = snapshot.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(keys, ["/c/rev/a", "/c/rev/b"], "in order, and nothing else");
    let a = snapshot.get("/c/rev/a").expect("key a");
    assert_eq!((a.create_revision, a.mod_revision, a.version), (first, second, 2));
    assert_eq!(a.value, b"2");
    let nothing = store.txn(Txn::of(vec![Op::delete("/c/rev/none")]), DEADLINE).await.expect("delete");
    assert_eq!(nothing.revision, snapshot.revision, "a delete of nothing is no change");
    assert_eq!(nothing.responses, [OpResponse::Deleted(0)]);
}

/// Each compare holds and fails where it should, and chooses the branch.
pub async fn compares_decide(store: &dyn Store) {
    let key = "/c/cmp/a";
    assert!(holds(store, Compare::absent(key)).await);
    let created = put(store, key, "v").await;
    for (compare, expected) in [
        (Compare::absent(key), false),
        (Compare::created_at(key, created), true),
        (Compare::modified_at(key, created), true),
        (Compare::modified_at(key, Revision(created.0 + 1)), false),
        (Compare::Value { key: key.to_owned(), value: b"v".to_vec() }, true),
        (Compare::Value { key: key.to_owned(), value: b"w".to_vec() }, false),
        (Compare::Value { key: "/c/cmp/none".to_owned(), value: Vec::new() }, false),
        (Compare::Lease { key: key.to_owned(), lease: None }, true),
        (Compare::under_lease(key, LeaseId(77)), false),
    ] {
        let text = format!("{compare:?}");
        assert_eq!(holds(store, compare).await, expected, "{text}");
    }
}

async fn holds(store: &dyn Store, compare: Compare) -> bool {
    let txn = Txn { compares: vec![compare], success: vec![], failure: vec![] };
    store.txn(txn, DEADLINE).await.expect("compare").succeeded
}

/// A put over a key is the same key; only delete and create make a new one.
pub async fn a_put_keeps_the_create_revision(store: &dyn Store) {
    let key = "/c/epoch/leader";
    let created = put(store, key, "one").await;
    put(store, key, "two").await;
    assert!(holds(store, Compare::created_at(key, created)).await);
    store.txn(Txn::of(vec![Op::delete(key)]), DEADLINE).await.expect("delete");
    let again = put(store, key, "one").await;
    assert!(again > created);
    assert!(holds(store, Compare::created_at(key, again)).await);
}

/// Put and delete of one key, two puts of one key, an empty key, an unknown lease.
pub async fn contradictions_are_refused(store: &dyn Store) {
    let key = "/c/bad/a";
    for ops in [
        vec![Op::delete(key), Op::put(key, "x")],
        vec![Op::DeletePrefix { prefix: "/c/bad/".to_owned() }, Op::put(key, "x")],
        vec![Op::put(key, "x"), Op::put(key, "y")],
        vec![Op::put("", "x")],
    ] {
        let refusal = refused(store.txn(Txn::of(ops.clone()), DEADLINE).await);
        assert!(matches!(refusal, Refusal::Invalid(_)), "{ops:?}: {refusal:?}");
    }
    let unknown = LeaseId(0xdead);
    let refusal = refused(store.txn(Txn::of(vec![Op::put_leased(key, "x", unknown)]), DEADLINE).await);
    assert_eq!(refusal, Refusal::LeaseNotFound(unknown));
    let long = "k".repeat(crate::limits::KEY_BYTES_MAX + 1);
    assert!(matches!(refused(store.txn(Txn::of(vec![Op::put(long, "x")]), DEADLINE).await), Refusal::Limit(_)));
    assert!(store.snapshot(key, DEADLINE).await.expect("snapshot").items.is_empty(), "nothing was put");
}

/// The same key in both branches: a member's record is written whether or not it may write more.
pub async fn a_key_may_be_in_both_branches(store: &dyn Store) {
    let (own, more) = ("/c/both/own", "/c/both/more");
    for (value, written) in [("1", true), ("2", false)] {
        let txn = Txn {
            compares: vec![Compare::absent(more)],
            success: vec![Op::put(more, value), Op::put(own, value)],
            failure: vec![Op::put(own, value)],
        };
        assert_eq!(store.txn(txn, DEADLINE).await.expect("txn").succeeded, written);
        let items = store.snapshot("/c/both/", DEADLINE).await.expect("snapshot").items;
        let values: Vec<_> = items.iter().map(|pair| (pair.key.as_str(), pair.value.as_slice())).collect();
        assert_eq!(values, [(more, &b"1"[..]), (own, value.as_bytes())]);
    }
}

/// When one operation is refused, none is done.
pub async fn a_transaction_is_done_whole_or_not_at_all(store: &dyn Store) {
    let before = store.snapshot("/c/whole/", DEADLINE).await.expect("snapshot");
    let ops = vec![Op::put("/c/whole/a", "1"), Op::put_leased("/c/whole/b", "1", LeaseId(0xbeef))];
    refused(store.txn(Txn::of(ops), DEADLINE).await);
    let after = store.snapshot("/c/whole/", DEADLINE).await.expect("snapshot");
    assert_eq!(before, after);
}

/// Operations of one transaction see what those before them did, and share a revision.
pub async fn operations_see_each_other(store: &dyn Store) {
    put(store, "/c/ops/old", "x").await;
    let ops = vec![
        Op::put("/c/ops/a", "1"),
        Op::get("/c/ops/a"),
        Op::delete("/c/ops/old"),
        Op::get("/c/ops/old"),
        Op::put("/c/ops/b", "1"),
    ];
    let result = store.txn(Txn::of(ops), DEADLINE).await.expect("txn");
    let OpResponse::Got(Some(a)) = &result.responses[1] else { panic!("{:?}", result.responses) };
    assert_eq!(a.mod_revision, result.revision);
    assert_eq!(result.responses[2], OpResponse::Deleted(1));
    assert_eq!(result.responses[3], OpResponse::Got(None));
    let snapshot = store.snapshot("/c/ops/", DEADLINE).await.expect("snapshot");
    assert_eq!(snapshot.get("/c/ops/b").expect("key b").create_revision, result.revision);
}

/// Keys hang on the lease of their last put, and go with it.
pub async fn a_revoked_lease_takes_its_keys(store: &dyn Store) {
    let lease = store.lease_grant(Duration::from_mins(10), DEADLINE).await.expect("grant");
    assert_eq!(lease.ttl, Duration::from_mins(10));
    assert_eq!(store.lease_time_to_live(lease.id, DEADLINE).await.expect("time to live"), lease.ttl);
    let ops = vec![
        Op::put_leased("/c/lease/a", "1", lease.id),
        Op::put_leased("/c/lease/b", "1", lease.id),
        Op::put("/c/lease/c", "1"),
    ];
    store.txn(Txn::of(ops), DEADLINE).await.expect("put");
    store.txn(Txn::of(vec![Op::put("/c/lease/b", "taken off")]), DEADLINE).await.expect("put");
    store.lease_revoke(lease.id, DEADLINE).await.expect("revoke");
    let snapshot = store.snapshot("/c/lease/", DEADLINE).await.expect("snapshot");
    let keys: Vec<&str> = snapshot.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(keys, ["/c/lease/b", "/c/lease/c"]);
    assert_eq!(refused(store.lease_revoke(lease.id, DEADLINE).await), Refusal::LeaseNotFound(lease.id));
    assert_eq!(refused(store.lease_time_to_live(lease.id, DEADLINE).await), Refusal::LeaseNotFound(lease.id));
}

/// A keep-alive that proved the lease but not the key would let a deposed holder go on.
pub async fn renewal_wants_lease_and_key(store: &dyn Store) {
    let key = "/c/renew/leader";
    let lease = store.lease_grant(Duration::from_mins(10), DEADLINE).await.expect("grant").id;
    let other = store.lease_grant(Duration::from_mins(10), DEADLINE).await.expect("grant").id;
    let taken =
        store.txn(Txn::when(vec![Compare::absent(key)], vec![Op::put_leased(key, "me", lease)]), DEADLINE).await;
    let created = taken.expect("take").revision;
    let renewal = |lease, created| Renewal { lease, leader_key: key.to_owned(), epoch_create_revision: created };
    // It may be another lease that goes on in its place.
    let lease = store.renew(renewal(lease, created), DEADLINE).await.expect("renew");
    let wrong_epoch = refused(store.renew(renewal(lease, Revision(created.0 + 1)), DEADLINE).await);
    assert!(matches!(wrong_epoch, Refusal::NotHolder { .. }), "{wrong_epoch:?}");
    let wrong_lease = refused(store.renew(renewal(other, created), DEADLINE).await);
    assert!(matches!(wrong_lease, Refusal::NotHolder { .. }), "{wrong_lease:?}");
    // The key was put under another lease: same create revision, and yet not ours any more.
    store.txn(Txn::of(vec![Op::put_leased(key, "me", other)]), DEADLINE).await.expect("put");
    let moved = refused(store.renew(renewal(lease, created), DEADLINE).await);
    assert!(matches!(moved, Refusal::NotHolder { .. }), "{moved:?}");
    store.txn(Txn::of(vec![Op::delete(key)]), DEADLINE).await.expect("delete");
    let gone = refused(store.renew(renewal(other, created), DEADLINE).await);
    assert!(matches!(gone, Refusal::NotHolder { found: None, .. }), "{gone:?}");
    store.lease_revoke(lease, DEADLINE).await.expect("revoke");
    assert_eq!(refused(store.renew(renewal(lease, created), DEADLINE).await), Refusal::LeaseNotFound(lease));
    store.lease_revoke(other, DEADLINE).await.expect("revoke");
}

/// Changes arrive in order, each once, whole transactions in one batch, other keys not at all.
pub async fn watches_see_every_change_in_order(store: &dyn Store) {
    let from = store.snapshot("/c/watch/", DEADLINE).await.expect("snapshot").revision;
    let mut watch = store.watch("/c/watch/", Revision(from.0 + 1), DEADLINE).await.expect("watch");
    let first = store.txn(Txn::of(vec![Op::put("/c/watch/a", "1"), Op::put("/c/watch/b", "1")]), DEADLINE).await;
    let first = first.expect("put").revision;
    put(store, "/c/unwatched", "1").await;
    let second = store.txn(Txn::of(vec![Op::delete("/c/watch/a")]), DEADLINE).await.expect("delete").revision;
    let mut seen: Vec<(Revision, String)> = Vec::new();
    while seen.len() < 3 {
        let WatchItem::Batch { revision, events } = next_of(&mut watch, "the changes").await else {
            panic!("the watch ended")
        };
        // A store may tell several revisions at once, but never a part of one.
        assert_eq!(events.last().map(|event| event.revision), Some(revision));
        assert!(seen.last().is_none_or(|(last, _)| *last < events[0].revision), "a transaction in two batches");
        assert!(events.iter().all(|event| event.revision == first || matches!(event.kind, EventKind::Delete { .. })));
        seen.extend(events.iter().map(|event| (event.revision, event.key().to_owned())));
    }
    let change = |revision, key: &str| (revision, key.to_owned());
    assert_eq!(seen, [change(first, "/c/watch/a"), change(first, "/c/watch/b"), change(second, "/c/watch/a")]);
}

/// A watch may begin in the past: it sees all since, or says that it cannot.
pub async fn a_watch_from_the_past_sees_it_or_says_so(store: &dyn Store) {
    let first = put(store, "/c/past/a", "1").await;
    put(store, "/c/past/a", "2").await;
    let mut watch = store.watch("/c/past/", first, DEADLINE).await.expect("watch");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match next_of(&mut watch, "the past").await {
            WatchItem::Batch { events, .. } => seen.extend(events),
            other => panic!("recent changes must be known, got {other:?}"),
        }
    }
    assert_eq!(seen[0].revision, first);
    let mut ancient = store.watch("/c/past/", Revision(1), DEADLINE).await.expect("watch");
    let first_item = next_of(&mut ancient, "the beginning").await;
    assert!(matches!(first_item, WatchItem::Compacted { .. } | WatchItem::Batch { .. }), "{first_item:?}");
}

/// Of many that race for a key exactly one gets it.
pub async fn one_of_many_creates_a_key(harness: &dyn Harness) {
    let store = harness.store();
    let attempts = (0..8).map(|number: u32| {
        let take = vec![Op::put("/c/race/leader", number.to_string())];
        store.txn(Txn::when(vec![Compare::absent("/c/race/leader")], take), DEADLINE)
    });
    let mut winners = 0;
    let mut running: Vec<_> = attempts.collect();
    // All are polled together: the futures are on their way at once.
    std::future::poll_fn(|context| {
        running.retain_mut(|attempt| match attempt.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                winners += u32::from(result.expect("race").succeeded);
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(winners, 1);
}

/// Two leases side by side: the one that is not renewed ends, seen by a watch; at that time the renewed one is there.
pub async fn a_lease_that_is_not_renewed_ends_and_one_that_is_does_not(harness: &dyn Harness) {
    for trial in 0..TRIALS {
        if side_by_side(harness, &format!("/c/expiry/{trial}/")).await.is_ok() {
            return;
        }
    }
    panic!("nothing was renewed in time in {TRIALS} trials: the machine is too slow for a lease of {SHORT_TTL:?}");
}

/// The time of a lease was over by our own clock before it was renewed: what became of it says nothing.
struct TooLate;

async fn side_by_side(harness: &dyn Harness, prefix: &str) -> Result<(), TooLate> {
    let store = harness.store();
    let keys = ["kept", "left"].map(|name| format!("{prefix}{name}"));
    let mut sent = Instant::now();
    let mut kept = store.lease_grant(SHORT_TTL, DEADLINE).await.expect("grant").id;
    let left = store.lease_grant(SHORT_TTL, DEADLINE).await.expect("grant").id;
    let put = vec![Op::put_leased(&keys[0], "x", kept), Op::put_leased(&keys[1], "x", left)];
    let created = match store.txn(Txn::of(put), DEADLINE).await {
        Err(_) if is_over(sent) => return Err(TooLate),
        put => put.expect("put").revision,
    };
    let mut watch = store.watch(prefix, Revision(created.0 + 1), DEADLINE).await.expect("watch");
    let renewal = |lease| Renewal { lease, leader_key: keys[0].clone(), epoch_create_revision: created };
    let mut renewals = 0_u32;
    let mut ended: Vec<String> = Vec::new();
    while ended.is_empty() {
        kept = renewed(store, renewal(kept), &mut sent).await?;
        renewals += 1;
        assert!(renewals < 600, "the lease that nobody renews has not ended");
        harness.pass(SHORT_TTL / 6).await;
        while let Ok(item) = tokio::time::timeout(SHORT_TTL / 15, watch.next()).await {
            let WatchItem::Batch { events, .. } = item else { panic!("the watch ended: {item:?}") };
            // A renewal may put its key under another lease.
            let deleted = events.iter().filter(|event| matches!(event.kind, EventKind::Delete { .. }));
            ended.extend(deleted.map(|event| event.key().to_owned()));
        }
    }
    kept = renewed(store, renewal(kept), &mut sent).await?;
    assert_eq!(ended, keys[1..]);
    assert!(renewals > 1, "it ended before its time");
    store.lease_revoke(kept, DEADLINE).await.expect("revoke");
    Ok(())
}

/// Whether the time of a lease is over that was granted or renewed by a call that was sent then.
fn is_over(sent: Instant) -> bool {
    Instant::now() >= sent + SHORT_TTL
}

/// Renews a lease that was granted or renewed by a call that was sent at `sent`.
async fn renewed(store: &dyn Store, renewal: Renewal, sent: &mut Instant) -> Result<LeaseId, TooLate> {
    let before = std::mem::replace(sent, Instant::now());
    match store.renew(renewal, DEADLINE).await {
        Ok(lease) => Ok(lease),
        Err(_) if is_over(before) => Err(TooLate),
        Err(error) => panic!("a lease is gone that was renewed in time: {error:?}"),
    }
}

/// Health is answered by a node in touch with a leader.
pub async fn the_health_names_a_leader(store: &dyn Store) {
    let health = store.health(DEADLINE).await.expect("health");
    assert!(health.leader.is_some(), "{health:?}");
    assert!(!health.voters.is_empty(), "{health:?}");
    assert_eq!(health.fatal, None);
}
