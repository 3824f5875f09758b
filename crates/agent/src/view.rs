//! The cluster's keys as last seen: snapshots that are certain, and changes as they come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_core::lease;
use pgbaton_store::{EventKind, Snapshot, WatchItem};
use pgbaton_types::{BootTime, Lsn, Revision, chain};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::keys::{self, Keys};

/// Wait before a watch or a read that failed is tried again: a store without a leader has one again after a second or two.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The newest view.
#[derive(Debug, Default)]
pub(crate) struct View {
    inner: Mutex<Inner>,
    /// The store's revision went back: what watches it waits for changes that are over.
    went_back: Notify,
    /// Something changed that a decision may depend on.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    keys: Arc<Keys>,
    revision: Revision,
    /// When that revision was learnt.
    learnt: BootTime,
    as_of: Option<BootTime>,
    answered_at: u64,
}

/// One consistent copy.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The keys without the prefix.
    pub(crate) keys: Arc<Keys>,
    /// Their revision.
    pub(crate) revision: Revision,
    /// When the newest read that they contain was sent.
    pub(crate) as_of: Option<BootTime>,
    /// The same in seconds since 1970; zero for never.
    pub(crate) answered_at: u64,
}

impl View {
    /// The view now.
    pub(crate) fn get(&self) -> Seen {
        let inner = self.locked();
        Seen {
            keys: Arc::clone(&inner.keys),
            revision: inner.revision,
            as_of: inner.as_of,
            answered_at: inner.answered_at,
        }
    }

    /// The keys now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.locked().keys)
    }

    /// Takes a linearizable snapshot that was asked for at `sent`. Says whether something changed that a decision may depend on.
    pub(crate) fn take(&self, prefix: &str, snapshot: Snapshot, sent: BootTime) -> bool {
        let mut inner = self.locked();
        inner.as_of = inner.as_of.max(Some(sent));
        inner.answered_at = clock::unix_seconds();
        if snapshot.revision < inner.revision {
            if sent <= inner.learnt {
                // Changes that came by the watch meanwhile are newer, and contain it.
                return false;
            }
            // It was asked for when the higher one was known already.
            tracing::warn!(
                known = %inner.revision, found = %snapshot.revision,
                "the store has gone back: it was restored from an older copy, wiped, or another one answers"
            );
            self.went_back.notify_one();
        }
        let named = |item: pgbaton_store::KeyValue| Some((item.key.strip_prefix(prefix)?.to_owned(), item));
        let keys: Keys = snapshot.items.into_iter().filter_map(named).collect();
        inner.learn(snapshot.revision);
        self.replaced(inner.replace(keys))
    }

    /// Takes changes from a watch. Says whether something changed that a decision may depend on.
    pub(crate) fn apply(&self, prefix: &str, revision: Revision, events: Vec<pgbaton_store::Event>) -> bool {
        let mut inner = self.locked();
        let mut keys = Keys::clone(&inner.keys);
        for event in events.into_iter().filter(|event| event.revision > inner.revision) {
            let Some(name) = event.key().strip_prefix(prefix).map(str::to_owned) else { continue };
            match event.kind {
                EventKind::Put(pair) => keys.insert(name, pair),
                EventKind::Delete { .. } => keys.remove(&name),
            };
        }
        let newest = inner.revision.max(revision);
        inner.learn(newest);
        self.replaced(inner.replace(keys))
    }

    fn replaced(&self, matters: bool) -> bool {
        if matters {
            self.changed.notify_one();
        }
        matters
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn learn(&mut self, revision: Revision) {
        if self.revision != revision {
            self.revision = revision;
            self.learnt = clock::now();
        }
    }

    fn replace(&mut self, keys: Keys) -> bool {
        let matters = matters(&self.keys) != matters(&keys);
        self.keys = Arc::new(keys);
        matters
    }
}

/// What decisions depend on: everything but the positions that are published all the time.
fn matters(keys: &Keys) -> (pgbaton_core::observation::Cluster, Option<&[u8]>) {
    let mut cluster = keys::cluster(keys, keys::Own::default(), BootTime::default(), 0);
    cluster.position = Lsn::INVALID;
    (cluster, keys.get(keys::CONFIG).map(|pair| pair.value.as_slice()))
}

/// Reads the keys once per loop, so that the view has an age that can be trusted. Ends with the loop.
pub(crate) async fn refresh(context: Arc<Context>) {
    loop {
        let settings = context.config().settings.clone();
        // What is read counts from when it was asked for: one question after the other, rather than one that waits for long.
        let limit = settings.retry_timeout.min(lease::request_time(settings.ttl));
        let read = read_once(&context, limit).await;
        sleep(if read { settings.loop_wait } else { RETRY_PAUSE }).await;
    }
}

/// Reads the keys now. Says whether the store answered.
pub(crate) async fn read_once(context: &Context, deadline: Duration) -> bool {
    let sent = clock::now();
    match context.store.snapshot(&context.prefix, deadline).await {
        Ok(snapshot) => {
            let first = context.view.get().as_of.is_none();
            if context.view.take(&context.prefix, snapshot, sent) || first {
                context.wake(Event::StoreChanged);
            }
            true
        }
        Err(error) => {
            tracing::debug!(error = %chain(&error), "the store cannot be read");
            false
        }
    }
}

/// Follows the keys' changes as they are made. Ends with the loop.
pub(crate) async fn watch(context: Arc<Context>) {
    loop {
        let from = Revision(context.view.get().revision.0 + 1);
        let deadline = context.config().settings.retry_timeout;
        match context.store.watch(&context.prefix, from, deadline).await {
            Ok(mut watch) => loop {
                let item = tokio::select! {
                    item = watch.next() => item,
                    () = context.view.went_back.notified() => break,
                };
                let WatchItem::Batch { revision, events } = item else { break };
                if context.view.apply(&context.prefix, revision, events) {
                    context.wake(Event::StoreChanged);
                }
            },
            Err(error) => tracing::debug!(error = %chain(&error), "the store cannot be watched"),
        }
        // Whatever ended the watch: what was missed is in a snapshot.
        sleep(RETRY_PAUSE).await;
        read_once(&context, deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_store::KeyValue;

    use super::*;

    fn pair(key: &str, value: &str, revision: u64) -> KeyValue {
        let revision = Revision(revision);
        KeyValue {
            key: format!("/s/c/{key}"),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: None,
        }
    }

    fn put(key: &str, value: &str, revision: u64) -> pgbaton_store::Event {
        pgbaton_store::Event { revision: Revision(revision), kind: EventKind::Put(pair(key, value, revision)) }
    }

    #[test]
    fn an_older_snapshot_does_not_undo_newer_changes() {
        let view = View::default();
        let snapshot = |revision, items| Snapshot { revision: Revision(revision), items };
        assert!(view.take("/s/c/", snapshot(5, vec![pair("leader", "a", 5)]), BootTime(1)));
        assert!(view.apply("/s/c/", Revision(7), vec![put("leader", "b", 7)]));
        assert!(!view.take("/s/c/", snapshot(6, vec![pair("leader", "a", 5)]), BootTime(2)));
        let seen = view.get();
        assert_eq!(
            (keys::text(&seen.keys["leader"]), seen.revision, seen.as_of),
            ("b".into(), Revision(7), Some(BootTime(2)))
        );
        assert!(!view.apply("/s/c/", Revision(7), vec![put("leader", "a", 6)]), "an event from before the view");
    }

    #[test]
    fn a_store_that_went_back_is_believed() {
        let view = View::default();
        let snapshot = |revision, items| Snapshot { revision: Revision(revision), items };
        let asked = clock::now();
        assert!(view.take("/s/c/", snapshot(9, vec![pair("leader", "a", 9)]), asked));
        assert!(!view.take("/s/c/", snapshot(3, vec![]), asked), "asked for before the higher one was known");
        assert!(view.take("/s/c/", snapshot(3, vec![]), clock::now()));
        let seen = view.get();
        assert_eq!((seen.revision, seen.keys.len()), (Revision(3), 0));
    }

    #[test]
    fn published_positions_wake_nobody() {
        let view = View::default();
        assert!(!view.apply("/s/c/", Revision(1), vec![put("status", r#"{"optime":1}"#, 1)]));
        let member = r#"{"role":"replica","state":"running","xlog_location":"#;
        assert!(view.apply("/s/c/", Revision(2), vec![put("members/a", &format!("{member}1}}"), 2)]));
        assert!(!view.apply("/s/c/", Revision(3), vec![put("members/a", &format!("{member}2}}"), 3)]));
    }
}
