use std::time::Duration;

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::kv::{KvDone, KvTxn};
use crate::machine::limits;
use crate::{KeyValue, LeaseId, Refusal};

/// One change of the replicated state. Everything that a change depends on is in the command: no time, no randomness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Compare, then do one of two lists of operations.
    Txn(Txn),
    /// Begin a lease. The number is chosen (at random) by whoever proposes it.
    LeaseGrant {
        /// Its number, not zero.
        id: LeaseId,
        /// Its time to live in milliseconds.
        ttl_ms: u64,
    },
    /// End a lease and delete the keys that hang on it; refused if there is none.
    LeaseRevoke {
        /// Its number.
        id: LeaseId,
    },
    /// End leases that ran out, as the leader saw it. Those that do not exist any more are passed over.
    LeaseExpire {
        /// Their numbers.
        ids: Vec<LeaseId>,
    },
    /// Compare, then do, as clients of etcd's protocol ask for it.
    Kv(KvTxn),
    /// Forget the history before a revision.
    Compact {
        /// The first that is kept.
        revision: Revision,
    },
}

impl Command {
    /// Whether leases begin or end by it.
    pub fn changes_leases(&self) -> bool {
        match self {
            Self::LeaseGrant { .. } | Self::LeaseRevoke { .. } | Self::LeaseExpire { .. } => true,
            Self::Txn(_) | Self::Kv(_) | Self::Compact { .. } => false,
        }
    }
}

/// How a number is compared with the given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareOrdering {
    /// Found equals given.
    Equal,
    /// Found is not the given one.
    NotEqual,
    /// Found is above given.
    Greater,
    /// Found is below given.
    Less,
}

/// One condition of a transaction. A key that does not exist has create revision, modification revision and version
/// zero, hangs on no lease, and no value compares equal to its.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The revision at which the key was created.
    CreateRevision {
        /// The key.
        key: String,
        /// How.
        ordering: CompareOrdering,
        /// Compared with this.
        revision: Revision,
    },
    /// The revision of the key's last change.
    ModRevision {
        /// The key.
        key: String,
        /// How.
        ordering: CompareOrdering,
        /// Compared with this.
        revision: Revision,
    },
    /// The number of puts since the key was created.
    Version {
        /// The key.
        key: String,
        /// How.
        ordering: CompareOrdering,
        /// Compared with this.
        version: u64,
    },
    /// The key exists and has exactly this value.
    Value {
        /// The key.
        key: String,
        /// Compared with this.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
    },
    /// The lease that the key hangs on.
    Lease {
        /// The key.
        key: String,
        /// Compared with this; `None` also matches a key that does not exist.
        lease: Option<LeaseId>,
    },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::CreateRevision { key: key.into(), ordering: CompareOrdering::Equal, revision: Revision(0) }
    }

    /// The key is the one that was created at `revision`.
    pub fn created_at(key: impl Into<String>, revision: Revision) -> Self {
        Self::CreateRevision { key: key.into(), ordering: CompareOrdering::Equal, revision }
    }

    /// The key was last changed at `revision`; zero: it does not exist.
    pub fn modified_at(key: impl Into<String>, revision: Revision) -> Self {
        Self::ModRevision { key: key.into(), ordering: CompareOrdering::Equal, revision }
    }

    /// The key hangs on this lease.
    pub fn under_lease(key: impl Into<String>, lease: LeaseId) -> Self {
        Self::Lease { key: key.into(), lease: Some(lease) }
    }

    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Value { key, .. }
            | Self::CreateRevision { key, .. }
            | Self::ModRevision { key, .. }
            | Self::Version { key, .. }
            | Self::Lease { key, .. } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Value { key, value } => key.len() + value.len(),
            Self::CreateRevision { key, .. }
            | Self::ModRevision { key, .. }
            | Self::Version { key, .. }
            | Self::Lease { key, .. } => key.len(),
        }
    }

    pub(crate) fn holds(&self, get: impl Fn(&str) -> Option<KeyValue>) -> bool {
        match self {
            Self::CreateRevision { key, ordering, revision } => {
                ordering.holds(get(key).map_or(0, |found| found.create_revision.0), revision.0)
            }
            Self::ModRevision { key, ordering, revision } => {
                ordering.holds(get(key).map_or(0, |found| found.mod_revision.0), revision.0)
            }
            Self::Version { key, ordering, version } => {
                ordering.holds(get(key).map_or(0, |found| found.version), *version)
            }
            Self::Value { key, value } => get(key).is_some_and(|found| found.value == *value),
            Self::Lease { key, lease } => get(key).and_then(|found| found.lease) == *lease,
        }
    }
}

impl CompareOrdering {
    fn holds(self, found: u64, given: u64) -> bool {
        match self {
            Self::Equal => found == given,
            Self::NotEqual => found != given,
            Self::Greater => found > given,
            Self::Less => found < given,
        }
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or changes a key. The create revision stays what it was when the key exists: a key changes hands only
    /// by delete and create.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
        /// The lease that it hangs on from now on; `None` takes it off any lease.
        lease: Option<LeaseId>,
    },
    /// Deletes a key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes all keys that begin with this.
    DeletePrefix {
        /// The beginning; not empty.
        prefix: String,
    },
    /// Reads a key, as the operations before this one in the same transaction left it.
    Get {
        /// The key.
        key: String,
    },
}

impl Op {
    /// A put without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// A put under a lease.
    pub fn put_leased(key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// A delete of one key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// A read.
    pub fn get(key: impl Into<String>) -> Self {
        Self::Get { key: key.into() }
    }
}

/// An atomic compare-and-do: if all `compares` hold then `success` else `failure`. The operations see each other's
/// effects and share one new revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// Done when they hold.
    pub success: Vec<Op>,
    /// Done when not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// An unconditional transaction.
    pub fn of(success: Vec<Op>) -> Self {
        Self { success, ..Self::default() }
    }

    /// A transaction that does `success` when `compares` hold and nothing otherwise.
    pub fn when(compares: Vec<Compare>, success: Vec<Op>) -> Self {
        Self { compares, success, failure: Vec::new() }
    }

    /// Whether neither branch changes anything.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Get { .. }))
    }

    /// Checks what can be checked without the state: limits, empty keys, and that no key is put twice or put and
    /// deleted in one branch (etcd refuses the same).
    ///
    /// # Errors
    /// Says which limit or which key.
    pub fn validate(&self) -> Result<(), Refusal> {
        let total = self.compares.len() + self.success.len() + self.failure.len();
        if total > limits::TXN_PARTS_MAX {
            return Err(Refusal::Limit(format!("{total} parts in a transaction, {} at most", limits::TXN_PARTS_MAX)));
        }
        let ops = self.success.iter().chain(&self.failure);
        let compared = self.compares.iter().map(Compare::bytes).sum::<usize>();
        let bytes = compared + ops.map(|op| op_bytes(op).0.len() + op_bytes(op).1).sum::<usize>();
        if bytes > limits::TXN_BYTES_MAX {
            return Err(Refusal::Limit(format!("a transaction of {bytes} bytes, {} at most", limits::TXN_BYTES_MAX)));
        }
        for branch in [&self.success, &self.failure] {
            branch.iter().try_for_each(validate_op)?;
            validate_branch(branch)?;
        }
        Ok(())
    }
}

/// The key of an operation and the length of its value.
fn op_bytes(op: &Op) -> (&str, usize) {
    match op {
        Op::Put { key, value, .. } => (key, value.len()),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } | Op::Get { key } => (key, 0),
    }
}

fn validate_op(op: &Op) -> Result<(), Refusal> {
    let (key, value_length) = op_bytes(op);
    if key.is_empty() {
        return Err(Refusal::Invalid("an empty key".to_owned()));
    }
    if key.len() > limits::KEY_BYTES_MAX {
        return Err(Refusal::Limit(format!("a key of {} bytes, {} at most", key.len(), limits::KEY_BYTES_MAX)));
    }
    if value_length > limits::VALUE_BYTES_MAX {
        return Err(Refusal::Limit(format!(
            "a value of {value_length} bytes for key {key:?}, {} at most",
            limits::VALUE_BYTES_MAX
        )));
    }
    Ok(())
}

fn validate_branch(branch: &[Op]) -> Result<(), Refusal> {
    let puts: Vec<&String> =
        branch.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
    for (index, key) in puts.iter().enumerate() {
        if puts[..index].contains(key) {
            return Err(Refusal::Invalid(format!("two puts of key {key:?} in one transaction")));
        }
        let deleted = branch.iter().any(|op| match op {
            Op::Delete { key: deleted } => deleted == *key,
            Op::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
            Op::Put { .. } | Op::Get { .. } => false,
        });
        if deleted {
            return Err(Refusal::Invalid(format!("put and delete of key {key:?} in one transaction")));
        }
    }
    Ok(())
}

/// What one operation found or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResponse {
    /// Put.
    Put,
    /// Deleted so many keys.
    Deleted(u64),
    /// Read; `None`: no such key.
    Got(Option<KeyValue>),
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnResult {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The store's revision after it; the create and modification revision of what it put.
    pub revision: Revision,
    /// One for each operation of the branch that was taken.
    pub responses: Vec<OpResponse>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Of a transaction.
    Txn(TxnResult),
    /// The lease was granted.
    Granted {
        /// Its number.
        id: LeaseId,
        /// Its time to live.
        ttl: Duration,
    },
    /// Leases were ended; so many keys went with them.
    Ended {
        /// How many keys.
        keys: u64,
    },
    /// Of a transaction of etcd's protocol.
    Kv(KvDone),
    /// The history was forgotten.
    Compacted,
}
