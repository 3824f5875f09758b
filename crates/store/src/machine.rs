use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::{Command, Op, OpResponse, Refusal, Response, Txn, TxnResult};

/// The limits of a [`Machine`]. They keep the whole state small enough to be one snapshot in one message.
pub mod limits {
    /// The longest key, in bytes: Patroni's longest are below 200.
    pub const KEY_BYTES_MAX: usize = 1024;
    /// The longest value, in bytes: etcd's default for a whole request is 1.5 MiB, Patroni's history stays below it.
    pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
    /// The most keys: a hundred clusters of a hundred keys.
    pub const KEYS_MAX: usize = 10_000;
    /// All keys and values together, in bytes: a snapshot is held in memory twice while it is sent.
    pub const TOTAL_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// The most leases: one for each member of many clusters.
    pub const LEASES_MAX: usize = 1_000;
    /// The most compares and operations in one transaction, as etcd's `--max-txn-ops`.
    pub const TXN_PARTS_MAX: usize = 128;
    /// All keys and values of a transaction together, in bytes: it is one record of a log, which must fit a segment.
    pub const TXN_BYTES_MAX: usize = 2 * 1024 * 1024;
    /// The shortest lease in milliseconds. Below it, renewing would be all that is done.
    pub const TTL_MS_MIN: u64 = 100;
    /// The longest lease in milliseconds: one day. A longer one is a mistake of units.
    pub const TTL_MS_MAX: u64 = 86_400_000;
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    value: Vec<u8>,
    create_revision: Revision,
    mod_revision: Revision,
    version: u64,
    lease: Option<LeaseId>,
}

/// The replicated state: keys, leases and one revision counter.
///
/// Pure and deterministic: the same commands in the same order give the same state, answers and events on every
/// voter. Lease *times* are not here (see [`crate::LeaseTimes`]): a lease ends only by a command. Serialising a
/// machine gives the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Only grows, by one for each command that changed a key. 1 when empty, as in etcd, so that 0 means "never".
    revision: Revision,
    keys: BTreeMap<String, Record>,
    /// Granted time to live in milliseconds by lease.
    leases: BTreeMap<LeaseId, u64>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { revision: Revision(1), keys: BTreeMap::new(), leases: BTreeMap::new() }
    }
}

impl Machine {
    /// An empty machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.keys.get(key).map(|record| pair(key, record))
    }

    /// All keys that begin with `prefix`, in order; an empty prefix means all.
    pub fn range(&self, prefix: &str) -> Vec<KeyValue> {
        self.under(prefix).map(|(key, record)| pair(key, record)).collect()
    }

    /// The granted time to live of a lease, if it exists.
    pub fn lease_ttl(&self, id: LeaseId) -> Option<Duration> {
        self.leases.get(&id).map(|ttl_ms| Duration::from_millis(*ttl_ms))
    }

    /// All leases with their granted times to live.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter().map(|(id, ttl_ms)| (*id, Duration::from_millis(*ttl_ms)))
    }

    /// Whether `key` is still the one created at `created` and hangs on `lease`: the test of a renewal.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn check_holder(&self, key: &str, created: Revision, lease: LeaseId) -> Result<(), Refusal> {
        if !self.leases.contains_key(&lease) {
            return Err(Refusal::LeaseNotFound(lease));
        }
        match self.keys.get(key) {
            Some(record) if record.create_revision == created && record.lease == Some(lease) => Ok(()),
            found => Err(Refusal::NotHolder {
                key: key.to_owned(),
                lease,
                wanted: created,
                found: found.map(|record| record.create_revision),
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
        Ok(TxnResult { succeeded, revision: self.revision, responses })
    }

    /// Applies one command.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let mut events = Vec::new();
        let result = match command {
            Command::Txn(txn) => self.apply_txn(txn, &mut events).map(Response::Txn),
            Command::LeaseGrant { id, ttl_ms } => self.grant(*id, *ttl_ms),
            Command::LeaseRevoke { id } => {
                if self.leases.contains_key(id) {
                    Ok(self.end_leases(&[*id], &mut events))
                } else {
                    Err(Refusal::LeaseNotFound(*id))
                }
            }
            Command::LeaseExpire { ids } => Ok(self.end_leases(ids, &mut events)),
        };
        assert!(result.is_ok() || events.is_empty(), "a refused command changed something: {command:?}");
        Applied { result, events }
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = (&String, &Record)> {
        self.keys.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
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

    fn end_leases(&mut self, ids: &[LeaseId], events: &mut Vec<Event>) -> Response {
        for id in ids {
            self.leases.remove(id);
        }
        let hanging = |record: &Record| record.lease.is_some_and(|lease| ids.contains(&lease));
        let doomed: Vec<String> =
            self.keys.iter().filter(|(_, record)| hanging(record)).map(|(key, _)| key.clone()).collect();
        let count = doomed.len() as u64;
        if !doomed.is_empty() {
            self.revision.0 += 1;
        }
        for key in doomed {
            self.keys.remove(&key);
            events.push(Event { revision: self.revision, kind: EventKind::Delete { key } });
        }
        Response::Ended { keys: count }
    }

    fn apply_txn(&mut self, txn: &Txn, events: &mut Vec<Event>) -> Result<TxnResult, Refusal> {
        txn.validate()?;
        let succeeded = txn.compares.iter().all(|compare| compare.holds(|key| self.get(key)));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        self.check_branch(branch)?;
        let next = Revision(self.revision.0 + 1);
        let responses = branch.iter().map(|op| self.apply_op(op, next, events)).collect();
        if !events.is_empty() {
            self.revision = next;
        }
        Ok(TxnResult { succeeded, revision: self.revision, responses })
    }

    /// Everything that can refuse a branch is checked before its first operation, so that none is half done.
    fn check_branch(&self, branch: &[Op]) -> Result<(), Refusal> {
        let mut keys = self.keys.len();
        let mut bytes: usize = self.keys.iter().map(|(key, record)| key.len() + record.value.len()).sum();
        for op in branch {
            let Op::Put { key, value, lease } = op else { continue };
            if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
                return Err(Refusal::LeaseNotFound(lease));
            }
            if let Some(record) = self.keys.get(key) {
                bytes = bytes + value.len() - record.value.len();
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

    fn apply_op(&mut self, op: &Op, revision: Revision, events: &mut Vec<Event>) -> OpResponse {
        match op {
            Op::Put { key, value, lease } => {
                let record = self.keys.entry(key.clone()).or_insert(Record {
                    value: Vec::new(),
                    create_revision: revision,
                    mod_revision: revision,
                    version: 0,
                    lease: None,
                });
                record.value.clone_from(value);
                record.mod_revision = revision;
                record.version += 1;
                record.lease = *lease;
                let now = pair(key, record);
                events.push(Event { revision, kind: EventKind::Put(now) });
                OpResponse::Put
            }
            Op::Delete { key } => OpResponse::Deleted(u64::from(self.delete(key, revision, events))),
            Op::DeletePrefix { prefix } => {
                let doomed: Vec<String> = self.under(prefix).map(|(key, _)| key.clone()).collect();
                for key in &doomed {
                    self.delete(key, revision, events);
                }
                OpResponse::Deleted(doomed.len() as u64)
            }
            Op::Get { key } => OpResponse::Got(self.get(key)),
        }
    }

    fn delete(&mut self, key: &str, revision: Revision, events: &mut Vec<Event>) -> bool {
        let existed = self.keys.remove(key).is_some();
        if existed {
            events.push(Event { revision, kind: EventKind::Delete { key: key.to_owned() } });
        }
        existed
    }
}

fn pair(key: &str, record: &Record) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: record.value.clone(),
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease: record.lease,
    }
}
