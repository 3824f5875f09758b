use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::{KeyValue, LeaseId, StoreError, Txn, TxnResult, Watch};

/// A future in a box, so that [`Store`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A consistent store as the agent sees it. Every call ends within its `deadline` (counted from the call), with an
/// answer or a [`StoreError`] that says whether something may have changed.
pub trait Store: Send + Sync {
    /// All keys that begin with `prefix`, as of one revision; linearizable: it shows every change that was answered
    /// before this call.
    fn snapshot<'a>(&'a self, prefix: &'a str, deadline: Duration) -> BoxFuture<'a, Result<Snapshot, StoreError>>;

    /// Does a transaction. Linearizable, also when it only reads.
    fn txn(&self, txn: Txn, deadline: Duration) -> BoxFuture<'_, Result<TxnResult, StoreError>>;

    /// Begins a lease of `ttl`.
    fn lease_grant(&self, ttl: Duration, deadline: Duration) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Ends a lease; the keys that hang on it are deleted.
    fn lease_revoke(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The time to live that a lease was *granted*; linearizable. By this, not by its own settings, a candidate reckons how
    /// long the holder may believe in its lease.
    fn lease_time_to_live(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<Duration, StoreError>>;

    /// Extends a lease for the holder of a leader key.
    ///
    /// `Ok` means: the lease was extended by its time to live, counted from the request's arrival at whoever leads (so
    /// the caller's `sent + ttl` is safe), and after that arrival the key still had that create revision and that
    /// lease, linearizably. It gives the lease that the key hangs on from then on: the same, or another one that took its place with
    /// the same time to live. A refusal means that the baton is lost. Any other error says nothing: the deadline stays what it was.
    fn renew(&self, renewal: Renewal, deadline: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Extends a lease on which no baton hangs: the same, but nothing rests on its time, and the lease is never another one.
    fn keep_session(&self, session: Renewal, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Watches keys that begin with `prefix` from the changes of `from_revision` on, that one included: pass a snapshot's
    /// revision plus one to see everything after it.
    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from_revision: Revision,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Watch, StoreError>>;

    /// How the store is, as far as can be said without asking others.
    fn health(&self, deadline: Duration) -> BoxFuture<'_, Result<Health, StoreError>>;
}

/// A consistent copy of a part of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The store's revision that it shows.
    pub revision: Revision,
    /// The keys, in order.
    pub items: Vec<KeyValue>,
}

impl Snapshot {
    /// One key of it.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.items.iter().find(|item| item.key == key)
    }
}

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// The time to live that was granted.
    pub ttl: Duration,
}

/// What a holder asks to have extended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The lease.
    pub lease: LeaseId,
    /// The key that must hang on it.
    pub leader_key: String,
    /// The revision at which the holder created that key.
    pub epoch_create_revision: Revision,
}

/// One with a vote in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Its number in the store.
    pub id: u64,
    /// Where it is reached.
    pub address: String,
}

/// How the store is, as this client's node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The number of the leader, if one is known.
    pub leader: Option<u64>,
    /// Whether the node asked leads.
    pub is_leader: bool,
    /// The term of the node asked.
    pub term: u64,
    /// Those who vote.
    pub voters: Vec<Voter>,
    /// The revision that the node asked has applied.
    pub revision: Revision,
    /// Whether the node asked has lost its storage for good (a failed sync, a full stop): it must be restarted.
    pub fatal: Option<String>,
}
