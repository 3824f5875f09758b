//! What the loop shows to the rest of the process, and the way to ask something of it.
//!
//! The REST server reads a [`Snapshot`] and sends an [`Order`]; it changes nothing of the loop's by itself. A snapshot is made after
//! each decision; whoever waits for a change waits on the channel, never by sleeping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::{Position, PostgresState, PrepareReply, PrepareRequest, Proof, ProveRequest, Role};
use pgbaton_config::{Effective, LocalConfig};
use pgbaton_core::{Finding, Observation, OperationKind, Settings};
use pgbaton_postgres::Sample;
use pgbaton_store::{BoxFuture, KeyValue, Store};
use pgbaton_types::{BootTime, MemberName, Revision};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};

use crate::event::{Event, Order, OrderReply};

/// What REST handlers get. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// The newest snapshot; changes after each decision.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Events for the loop.
    pub orders: mpsc::Sender<Event>,
    /// The store, for requests that write keys (`failover`, `config`) or want a fresh read.
    pub store: Arc<dyn Store>,
    /// The beginning of all keys of this cluster, such as `/service/demo/`.
    pub prefix: Arc<str>,
    /// What this member's own file says: the part that does not change while the agent runs (name, addresses).
    pub local: Arc<LocalConfig>,
    /// Answers the questions of other members.
    pub peer: Arc<dyn AnswerPeers>,
}

/// Answers the questions of other members (`/pgbaton/...`); the REST server only carries them.
pub trait AnswerPeers: Send + Sync {
    /// How far this member is, looked at after the question came. `None`: the agent is ending.
    fn position(&self) -> BoxFuture<'_, Option<Position>>;

    /// Makes this member ready to take over from a holder that waits for it.
    fn prepare(&self, request: PrepareRequest) -> BoxFuture<'_, PrepareReply>;

    /// Whether this member holds the holder's shutdown checkpoint; waits a moment for it to come in.
    fn prove(&self, request: ProveRequest) -> BoxFuture<'_, Proof>;
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The loop has ended: the agent is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is ending")]
pub struct LoopGone;

impl Shared {
    /// The newest snapshot.
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Gives an order to the loop and waits for its outcome: for a restart or a new clone that is its end, for a reload that the files are
    /// read. The caller sets the limit.
    ///
    /// # Errors
    /// [`LoopGone`] when the agent ends first.
    pub async fn order(&self, order: Order) -> Result<OrderReply, LoopGone> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Event::Order { order, reply }).await.map_err(|_| LoopGone)?;
        answer.await.map_err(|_| LoopGone)
    }

    /// Waits until `found` sees what it wants in a snapshot, this one or a later one; `None` when `within` has passed.
    pub async fn wait_for<T>(&self, within: Duration, mut found: impl FnMut(&Snapshot) -> Option<T>) -> Option<T> {
        let mut snapshots = self.snapshot.clone();
        let search = async {
            loop {
                let current = Arc::clone(&snapshots.borrow_and_update());
                if let Some(value) = found(&current) {
                    return Some(value);
                }
                if snapshots.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(within, search).await.ok().flatten()
    }
}

/// Everything that may be said about this member and its cluster, as of the last decision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What the decision was made on: local server, store view, lease, guard, operation, memory.
    pub observation: Arc<Observation>,
    /// For each step that was looked at, what came of it.
    pub report: Vec<Finding>,
    /// Why this member would not lead if there were no leader; none: it would.
    pub unfit: Option<String>,
    /// What a handover that was called off or refused last came to; none after one that went through.
    pub last_handover: Option<String>,
    /// The settings that the decision was made with.
    pub settings: Settings,
    /// The settings of both configurations merged.
    pub effective: Arc<Effective>,
    /// This member's own file, as read last.
    pub local: Arc<LocalConfig>,
    /// The keys of the cluster as last seen, without the prefix: `leader`, `members/a`, `config`, `status`, `history`, `failover`,
    /// `initialize`, and ours.
    pub keys: Arc<BTreeMap<String, KeyValue>>,
    /// The revision of these keys.
    pub revision: Revision,
    /// The last look at the server that succeeded; none while it does not answer or does not run.
    pub sample: Option<Arc<Sample>>,
    /// Settings of the server that wait for a restart.
    pub pending_restart: Vec<String>,
    /// The restart that waits for its time, as the member's record shows it; empty: none.
    pub scheduled_restart: Map<String, Value>,
    /// What Patroni calls the server's state, such as `running` or `creating replica`.
    pub state: PostgresState,
    /// What Patroni calls the role, such as `primary`, `replica`, `demoted`, `uninitialized` or `promoted`.
    pub role: Role,
    /// The guard.
    pub guard: GuardView,
    /// How far a base backup is: bytes done, bytes in all.
    pub progress: Option<(u64, u64)>,
    /// When the store answered last, in seconds since 1970; zero for never.
    pub store_last_seen: u64,
    /// When the next decision is due at the latest.
    pub next_run: BootTime,
    /// What holds: `lease` in this version.
    pub guarantee: &'static str,
    /// The virtual address; none: there is none.
    pub address: Option<pgbaton_address::Status>,
    /// What an operator must know now: a broken safety rule, a guard without rights.
    pub alarms: Vec<String>,
}

/// The guard as the status shows it.
#[derive(Debug, Clone, Default)]
pub struct GuardView {
    /// It answers.
    pub alive: bool,
    /// It enforces a deadline.
    pub armed: bool,
    /// Disarmed because the cluster is paused.
    pub paused: bool,
    /// The deadline that it enforces.
    pub deadline: Option<BootTime>,
    /// K: the longest time from a deadline to the death of the last process.
    pub kill_time: Duration,
    /// Rights that it lacks, with what they need.
    pub missing_rights: Vec<&'static str>,
    /// Process id of the postmaster that it owns.
    pub postmaster: Option<i32>,
}

impl Snapshot {
    /// The operation that is under way.
    pub fn operation(&self) -> Option<&OperationKind> {
        self.observation.operation.as_ref().map(|operation| &operation.kind)
    }

    /// Whether this member holds the lease now, by its own reckoning at `now`.
    pub fn holds_lease(&self, now: BootTime) -> bool {
        self.observation.lease.is_some_and(|lease| !now.reached(lease.deadline))
    }

    /// The value of a key as JSON; none when it is absent or no JSON.
    pub fn json(&self, key: &str) -> Option<Value> {
        self.keys.get(key).and_then(|pair| serde_json::from_slice(&pair.value).ok())
    }

    /// The dynamic configuration as it stands in the store.
    pub fn dynamic(&self) -> Option<Map<String, Value>> {
        match self.json("config") {
            Some(Value::Object(map)) => Some(map),
            _ => None,
        }
    }

    /// The records of the members, as each published its own.
    pub fn members(&self) -> impl Iterator<Item = (MemberName, Value)> {
        self.keys.iter().filter_map(|(key, pair)| {
            let name = key.strip_prefix("members/")?.parse().ok()?;
            Some((name, serde_json::from_slice(&pair.value).unwrap_or(Value::Null)))
        })
    }
}
