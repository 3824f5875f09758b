use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::keyspace::{Entry, Keyspace, Transaction};
use crate::kv::{self, KvDone, KvRefusal, KvTxn};
use crate::{Command, KeyRange, Op, OpResponse, Refusal, Response, Txn, TxnResult};

/// The limits of a [`Machine`]. They keep the whole state small enough to be one snapshot in one message.
pub mod limits {
    /// The longest key, in bytes: Patroni's longest are below 200.
    pub const KEY_BYTES_MAX: usize = 1024;
    /// The longest value, in bytes: etcd's default for a whole request is 1.5 MiB, Patroni's history stays below it.
    pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
    /// The most keys: a thousand clusters of fifty keys.
    pub const KEYS_MAX: usize = 50_000;
    /// All keys and values together, in bytes: a snapshot is held in memory twice while it is sent.
    pub const TOTAL_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// Of these so many are kept for the agents, whatever clients of etcd's protocol store beside them: keys of a hundred clusters.
    pub const AGENTS_KEYS: usize = 2_000;
    /// The same in bytes.
    pub const AGENTS_BYTES: usize = 4 * 1024 * 1024;
    /// The most changes that are remembered: minutes of a busy cluster. Of more, the older half is forgotten.
    pub const HISTORY_CHANGES_MAX: usize = 10_000;
    /// Keys and values that are remembered and not there any more, in bytes. Of more, the older half is forgotten.
    pub const HISTORY_BYTES_MAX: usize = 8 * 1024 * 1024;
    /// The most leases: a thousand clusters of nine members and a baton.
    pub const LEASES_MAX: usize = 10_000;
    /// The most compares and operations in one transaction, as etcd's `--max-txn-ops`.
    pub const TXN_PARTS_MAX: usize = 128;
    /// All keys and values of a transaction together, in bytes: it is one record of a log, which must fit a segment.
    pub const TXN_BYTES_MAX: usize = 2 * 1024 * 1024;
    /// The shortest lease in milliseconds. Below it, renewing would be all that is done.
    pub const TTL_MS_MIN: u64 = 100;
    /// The longest lease in milliseconds: etcd's.
    pub const TTL_MS_MAX: u64 = 9_000_000_000_000;
}

/// The number of a lease; random, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// A key with its value and its history's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// The revision at which it was created; it stays while the key lives.
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// How many puts it has had since it was created; 1 after the first.
    pub version: u64,
    /// The lease that it hangs on: it is deleted when that ends.
    pub lease: Option<LeaseId>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It was created or changed, and is this now.
    Put(KeyValue),
    /// It was deleted.
    Delete {
        /// The key.
        key: String,
    },
}

/// One change of one key. All changes of one command have the same revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// What it was.
    pub kind: EventKind,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match &self.kind {
            EventKind::Put(pair) => &pair.key,
            EventKind::Delete { key } => key,
        }
    }
}

/// What applying a command gave: an answer for whoever proposed it and events for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer.
    pub result: Result<Response, Refusal>,
    /// The changes, in order; empty when nothing changed.
    pub events: Vec<Event>,
}

/// The replicated state: keys with their history, leases and one revision counter.
///
/// Pure and deterministic: the same commands in the same order give the same state, answers and events on every
/// voter. Lease *times* are not here (see [`crate::LeaseTimes`]): a lease ends only by a command. Serialising a
/// machine gives the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    keyspace: Keyspace,
    /// Granted time to live in milliseconds by lease.
    leases: BTreeMap<LeaseId, u64>,
}

impl Machine {
    /// An empty machine.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(keyspace: Keyspace, leases: BTreeMap<LeaseId, u64>) -> Self {
        Self { keyspace, leases }
    }

    /// The revision of the last change. Only grows, by one for each command that changed a key. 1 when empty, as in etcd, so that 0
    /// means "never".
    pub fn revision(&self) -> Revision {
        self.keyspace.revision()
    }

    /// The keys with their history.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.keyspace.get(key.as_bytes()).map(|entry| pair(key, entry))
    }

    /// All keys that begin with `prefix`, in order; an empty prefix means all. Keys that are no text, which only clients of etcd's
    /// protocol can make, are left out.
    pub fn range(&self, prefix: &str) -> Vec<KeyValue> {
        let range = KeyRange::prefix(prefix);
        let found = self.keyspace.range(&range);
        found.filter_map(|(key, entry)| Some(pair(str::from_utf8(key).ok()?, entry))).collect()
    }

    /// The granted time to live of a lease, if it exists.
    pub fn lease_ttl(&self, id: LeaseId) -> Option<Duration> {
        self.leases.get(&id).map(|ttl_ms| Duration::from_millis(*ttl_ms))
    }

    /// All leases with their granted times to live.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter().map(|(id, ttl_ms)| (*id, Duration::from_millis(*ttl_ms)))
    }

    /// The keys that hang on a lease, in order.
    pub fn keys_under(&self, id: LeaseId) -> Vec<Vec<u8>> {
        self.hanging(|lease| lease == id)
    }

    fn hanging(&self, on: impl Fn(LeaseId) -> bool) -> Vec<Vec<u8>> {
        let all = KeyRange::prefix("");
        let hangs = self.keyspace.range(&all).filter(|(_, entry)| entry.lease.is_some_and(&on));
        hangs.map(|(key, _)| key.to_vec()).collect()
    }

    /// Whether `key` is still the one created at `created` and hangs on `lease`: the test of a renewal.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn check_holder(&self, key: &str, created: Revision, lease: LeaseId) -> Result<(), Refusal> {
        if !self.leases.contains_key(&lease) {
            return Err(Refusal::LeaseNotFound(lease));
        }
        match self.keyspace.get(key.as_bytes()) {
            Some(entry) if entry.create_revision == created && entry.lease == Some(lease) => Ok(()),
            found => Err(Refusal::NotHolder {
                key: key.to_owned(),
                lease,
                wanted: created,
                found: found.map(|entry| entry.create_revision),
            }),
        }
    }

    /// The answer to a transaction that changes nothing whichever branch is taken.
    ///
    /// # Errors
    /// When it is not valid, or not read-only.
    pub fn query(&self, txn: &Txn) -> Result<TxnResult, Refusal> {
        txn.validate()?;
        let succeeded = txn.compares.iter().all(|compare| compare.holds(|key| self.get(key)));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let read = |op: &Op| match op {
            Op::Get { key } => Ok(OpResponse::Got(self.get(key))),
            _ => Err(Refusal::Invalid("a change in a transaction that is to read only".to_owned())),
        };
        let responses = branch.iter().map(read).collect::<Result<_, _>>()?;
        Ok(TxnResult { succeeded, revision: self.revision(), responses })
    }

    /// The answer to a transaction of etcd's protocol that changes nothing whichever branch is taken.
    ///
    /// # Errors
    /// What stands against it.
    pub fn query_kv(&self, txn: &KvTxn) -> Result<KvDone, Refusal> {
        txn.validate(limits::TXN_PARTS_MAX).map_err(Refusal::Kv)?;
        let answer = kv::query(&self.keyspace, txn).map_err(Refusal::Kv)?;
        Ok(KvDone { revision: self.revision(), answer })
    }

    /// Applies one command.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let before = self.revision();
        let result = match command {
            Command::Txn(txn) => self.apply_txn(txn).map(Response::Txn),
            Command::LeaseGrant { id, ttl_ms } => self.grant(*id, *ttl_ms),
            Command::LeaseRevoke { id } => {
                if self.leases.contains_key(id) {
                    Ok(self.end_leases(&[*id]))
                } else {
                    Err(Refusal::LeaseNotFound(*id))
                }
            }
            Command::LeaseExpire { ids } => Ok(self.end_leases(ids)),
            Command::Kv(txn) => self.apply_kv(txn).map(Response::Kv),
            Command::Compact { revision } => {
                let compacted = self.keyspace.compact(*revision).map_err(|error| Refusal::Kv(error.into()));
                compacted.map(|()| Response::Compacted)
            }
        };
        assert!(result.is_ok() || self.revision() == before, "a refused command changed something: {command:?}");
        let events = self.events_after(before);
        self.forget();
        Applied { result, events }
    }

    /// The changes of the last command, if it made any.
    fn events_after(&self, before: Revision) -> Vec<Event> {
        if self.revision() == before {
            return Vec::new();
        }
        let all = KeyRange::prefix("");
        // What was just done is never compacted.
        let changes = self.keyspace.changes_from(&all, self.revision()).unwrap_or_default();
        let told = changes.into_iter().filter_map(|change| {
            let key = str::from_utf8(change.key).ok()?;
            let kind = match change.entry {
                Some(entry) => EventKind::Put(pair(key, entry)),
                None => EventKind::Delete { key: key.to_owned() },
            };
            Some(Event { revision: change.revision, kind })
        });
        told.collect()
    }

    /// Keeps the history within its limits. Every voter does so at the same command.
    fn forget(&mut self) {
        if self.keyspace.changes() > limits::HISTORY_CHANGES_MAX
            || self.keyspace.history_bytes() > limits::HISTORY_BYTES_MAX
        {
            self.keyspace.forget_half();
        }
    }

    fn grant(&mut self, id: LeaseId, ttl_ms: u64) -> Result<Response, Refusal> {
        if id.0 == 0 {
            return Err(Refusal::Invalid("lease number zero".to_owned()));
        }
        if !(limits::TTL_MS_MIN..=limits::TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Refusal::Limit(format!(
                "a lease of {ttl_ms} ms; {} to {} are possible",
                limits::TTL_MS_MIN,
                limits::TTL_MS_MAX
            )));
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists(id));
        }
        if self.leases.len() >= limits::LEASES_MAX {
            return Err(Refusal::Limit(format!("{} leases exist already", limits::LEASES_MAX)));
        }
        self.leases.insert(id, ttl_ms);
        Ok(Response::Granted { id, ttl: Duration::from_millis(ttl_ms) })
    }

    fn end_leases(&mut self, ids: &[LeaseId]) -> Response {
        for id in ids {
            self.leases.remove(id);
        }
        let doomed = self.hanging(|lease| ids.contains(&lease));
        let mut transaction = self.keyspace.begin();
        for key in &doomed {
            transaction.delete(key);
        }
        Response::Ended { keys: doomed.len() as u64 }
    }

    fn apply_txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        txn.validate()?;
        let succeeded = txn.compares.iter().all(|compare| compare.holds(|key| self.get(key)));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        self.check_branch(branch)?;
        let mut transaction = self.keyspace.begin();
        let responses = branch.iter().map(|op| apply_op(&mut transaction, op)).collect();
        Ok(TxnResult { succeeded, revision: self.revision(), responses })
    }

    fn apply_kv(&mut self, txn: &KvTxn) -> Result<KvDone, Refusal> {
        txn.validate(limits::TXN_PARTS_MAX).map_err(Refusal::Kv)?;
        let room = limits::TOTAL_BYTES_MAX - limits::AGENTS_BYTES;
        let (keys, bytes) = txn.puts_at_most();
        if keys > 0
            && (self.keyspace.live() + keys > limits::KEYS_MAX - limits::AGENTS_KEYS
                || self.keyspace.live_bytes() + bytes > room)
        {
            return Err(Refusal::Kv(KvRefusal::NoSpace));
        }
        let leases = &self.leases;
        let mut transaction = self.keyspace.begin();
        let applied = kv::apply(&mut transaction, txn, &|lease| leases.contains_key(&lease));
        let answer = applied.map_err(Refusal::Kv)?;
        Ok(KvDone { revision: self.revision(), answer })
    }

    /// Everything that can refuse a branch is checked before its first operation, so that none is half done.
    fn check_branch(&self, branch: &[Op]) -> Result<(), Refusal> {
        let (mut keys, mut bytes) = (self.keyspace.live(), self.keyspace.live_bytes());
        for op in branch {
            let Op::Put { key, value, lease } = op else { continue };
            if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
                return Err(Refusal::LeaseNotFound(lease));
            }
            if let Some(entry) = self.keyspace.get(key.as_bytes()) {
                bytes = bytes + value.len() - entry.value.len();
            } else {
                keys += 1;
                bytes += key.len() + value.len();
            }
        }
        if keys > limits::KEYS_MAX {
            return Err(Refusal::Limit(format!("{} keys at most", limits::KEYS_MAX)));
        }
        if bytes > limits::TOTAL_BYTES_MAX {
            return Err(Refusal::Limit(format!("{} bytes of keys and values at most", limits::TOTAL_BYTES_MAX)));
        }
        Ok(())
    }
}

fn apply_op(transaction: &mut Transaction<'_>, op: &Op) -> OpResponse {
    match op {
        Op::Put { key, value, lease } => {
            transaction.put(key.as_bytes(), value.clone(), *lease);
            OpResponse::Put
        }
        Op::Delete { key } => OpResponse::Deleted(u64::from(transaction.delete(key.as_bytes()))),
        Op::DeletePrefix { prefix } => {
            let range = KeyRange::prefix(prefix.as_str());
            let doomed: Vec<Vec<u8>> = transaction.keyspace().range(&range).map(|(key, _)| key.to_vec()).collect();
            for key in &doomed {
                transaction.delete(key);
            }
            OpResponse::Deleted(doomed.len() as u64)
        }
        Op::Get { key } => OpResponse::Got(transaction.keyspace().get(key.as_bytes()).map(|entry| pair(key, entry))),
    }
}

fn pair(key: &str, entry: &Entry) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: entry.value.clone(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        version: entry.version,
        lease: entry.lease,
    }
}
