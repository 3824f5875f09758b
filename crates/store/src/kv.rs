//! What etcd's clients may ask of a store's keys, and the answers: etcd's `KV` service without its wire format.
//!
//! Checked in two steps as etcd does it: [`KvTxn::validate`] looks at a request alone, before it is replicated;
//! [`apply`] and [`query`] look at the keys.

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::keyspace::{Entry, Keyspace, RevisionError, Transaction};
use crate::reading::{Pair, RangeAnswer, RangeQuery, pair, read};
use crate::{KeyRange, LeaseId};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOp {
    /// Reads.
    Range(RangeQuery),
    /// Creates or changes a key.
    Put(Put),
    /// Deletes keys.
    DeleteRange {
        /// Which.
        range: KeyRange,
        /// Say what they were.
        before: bool,
    },
    /// Compares and does, as a part of a larger transaction.
    Txn(KvTxn),
}

/// Creating or changing a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Its value; none: it keeps the one that it has.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// The lease that it hangs on; [`PutLease::Keep`]: the one that it has.
    pub lease: PutLease,
    /// Say what it was.
    pub before: bool,
}

/// What a put does about the lease of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PutLease {
    /// Takes it off any lease.
    None,
    /// Hangs it on this one.
    On(LeaseId),
    /// Leaves it as it is.
    Keep,
}

/// What a key is compared by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Figure {
    /// Puts since it began to exist.
    Version(i64),
    /// When it began to exist.
    Create(i64),
    /// When it was changed last.
    Mod(i64),
    /// Its value; a key that does not exist compares as nothing, whichever way.
    Value(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The number of its lease; 0: none.
    Lease(i64),
}

/// How the figure of a key is to be to the given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// The same.
    Equal,
    /// Above.
    Greater,
    /// Below.
    Less,
    /// Another.
    NotEqual,
}

impl Relation {
    fn holds(self, found: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::Greater => found.is_gt(),
            Self::Less => found.is_lt(),
            Self::NotEqual => found.is_ne(),
        }
    }
}

/// A condition: every key of the range that exists is so, or one key is that does not exist, with all its figures 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvCompare {
    /// Which keys.
    pub range: KeyRange,
    /// By what.
    pub figure: Figure,
    /// How.
    pub relation: Relation,
}

/// Compare, then do one of two lists of operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvTxn {
    /// The conditions.
    pub compares: Vec<KvCompare>,
    /// Done when all hold.
    pub success: Vec<KvOp>,
    /// Done when not.
    pub failure: Vec<KvOp>,
    /// It stands for one request that was no transaction. etcd then looks for a lease before it looks for a key, and takes a revision
    /// below zero for the present one.
    pub single: bool,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvAnswer {
    /// Of a read.
    Range(RangeAnswer),
    /// Of a put: what it was, where that was asked for.
    Put(Option<Pair>),
    /// Of a deletion.
    Deleted {
        /// How many keys.
        keys: u64,
        /// What they were, where that was asked for.
        before: Vec<Pair>,
    },
    /// Of a transaction.
    Txn(KvTxnAnswer),
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvTxnAnswer {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One for each operation that was done.
    pub answers: Vec<KvAnswer>,
}

/// A transaction that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvDone {
    /// The store's revision after it.
    pub revision: Revision,
    /// What came of it.
    pub answer: KvTxnAnswer,
}

/// Why nothing was done. The names are those of etcd's errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum KvRefusal {
    /// A key is empty.
    #[error("key is not provided")]
    EmptyKey,
    /// A transaction puts a key twice, or puts and deletes it.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A transaction is too long.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// A put that keeps what is there found nothing.
    #[error("key not found")]
    KeyNotFound,
    /// There is no such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The history of the wanted revision is gone.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The wanted revision has not come yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// The store holds as much as it may.
    #[error("mvcc: database space exceeded")]
    NoSpace,
}

impl From<RevisionError> for KvRefusal {
    fn from(error: RevisionError) -> Self {
        match error {
            RevisionError::Compacted(_) => Self::Compacted,
            RevisionError::Future(_) => Self::FutureRevision,
        }
    }
}

impl KvCompare {
    fn holds(&self, keyspace: &Keyspace) -> bool {
        let mut keys = keyspace.range(&self.range).peekable();
        if keys.peek().is_none() {
            return !matches!(self.figure, Figure::Value(_)) && self.holds_for(None);
        }
        keys.all(|(_, entry)| self.holds_for(Some(entry)))
    }

    fn holds_for(&self, entry: Option<&Entry>) -> bool {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let found = match &self.figure {
            Figure::Version(given) => entry.map_or(0, |entry| number(entry.version)).cmp(given),
            Figure::Create(given) => entry.map_or(0, |entry| number(entry.create_revision.0)).cmp(given),
            Figure::Mod(given) => entry.map_or(0, |entry| number(entry.mod_revision.0)).cmp(given),
            Figure::Lease(given) => {
                // Numbers of leases go over the wire as signed ones.
                entry.and_then(|entry| entry.lease).map_or(0, |lease| lease.0.cast_signed()).cmp(given)
            }
            Figure::Value(given) => match entry {
                Some(entry) => entry.value.as_slice().cmp(given),
                None => return false,
            },
        };
        self.relation.holds(found)
    }
}

/// Applies the branch of a transaction for which its conditions decide. Nothing is changed when it is refused.
///
/// # Errors
/// What stands against it; decided before the first change.
pub(crate) fn apply(
    transaction: &mut Transaction<'_>,
    txn: &KvTxn,
    lease_exists: &impl Fn(LeaseId) -> bool,
) -> Result<KvTxnAnswer, KvRefusal> {
    let branches = choose(transaction.keyspace(), txn);
    check(transaction.keyspace(), txn, &branches, lease_exists)?;
    Ok(run(transaction, txn, &branches))
}

/// The answer to a transaction that is [read-only](KvTxn::is_read_only).
///
/// # Errors
/// A revision that it names is gone or has not come yet.
pub(crate) fn query(keyspace: &Keyspace, txn: &KvTxn) -> Result<KvTxnAnswer, KvRefusal> {
    let succeeded = txn.compares.iter().all(|compare| compare.holds(keyspace));
    let answers = branch(txn, succeeded).iter().filter_map(|op| match op {
        KvOp::Range(query) => {
            let checked = check_revision(keyspace, query, txn.single);
            Some(checked.and_then(|()| Ok(read(keyspace, query)?)).map(KvAnswer::Range))
        }
        KvOp::Txn(txn) => Some(query_inner(keyspace, txn)),
        KvOp::Put(_) | KvOp::DeleteRange { .. } => None,
    });
    Ok(KvTxnAnswer { succeeded, answers: answers.collect::<Result<_, _>>()? })
}

fn query_inner(keyspace: &Keyspace, txn: &KvTxn) -> Result<KvAnswer, KvRefusal> {
    query(keyspace, txn).map(KvAnswer::Txn)
}

/// Which branches a transaction and those in it take: all conditions see the keys as they were before it.
struct Choice {
    succeeded: bool,
    inner: Vec<Choice>,
}

fn choose(keyspace: &Keyspace, txn: &KvTxn) -> Choice {
    let succeeded = txn.compares.iter().all(|compare| compare.holds(keyspace));
    let inner = branch(txn, succeeded).iter().filter_map(|op| match op {
        KvOp::Txn(txn) => Some(choose(keyspace, txn)),
        _ => None,
    });
    Choice { succeeded, inner: inner.collect() }
}

fn branch(txn: &KvTxn, succeeded: bool) -> &[KvOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Everything that can refuse a transaction, before its first change: the puts first and then the reads, as etcd looks at them.
fn check(
    keyspace: &Keyspace,
    txn: &KvTxn,
    choice: &Choice,
    lease_exists: &impl Fn(LeaseId) -> bool,
) -> Result<(), KvRefusal> {
    each(txn, choice, &mut |op| match op {
        KvOp::Put(put) => check_put(keyspace, put, txn.single, lease_exists),
        KvOp::Range(_) | KvOp::DeleteRange { .. } | KvOp::Txn(_) => Ok(()),
    })?;
    each(txn, choice, &mut |op| match op {
        KvOp::Range(query) => check_revision(keyspace, query, txn.single),
        KvOp::Put(_) | KvOp::DeleteRange { .. } | KvOp::Txn(_) => Ok(()),
    })
}

/// Looks at each operation of the branches that are taken, in their order.
fn each(txn: &KvTxn, choice: &Choice, look: &mut impl FnMut(&KvOp) -> Result<(), KvRefusal>) -> Result<(), KvRefusal> {
    let mut inner = choice.inner.iter();
    for op in branch(txn, choice.succeeded) {
        match op {
            KvOp::Txn(txn) => inner.next().map_or(Ok(()), |choice| each(txn, choice, look))?,
            op => look(op)?,
        }
    }
    Ok(())
}

fn check_put(
    keyspace: &Keyspace,
    put: &Put,
    single: bool,
    lease_exists: &impl Fn(LeaseId) -> bool,
) -> Result<(), KvRefusal> {
    let keeps = put.value.is_none() || put.lease == PutLease::Keep;
    let no_key = keeps && keyspace.get(&put.key).is_none();
    let no_lease = matches!(put.lease, PutLease::On(lease) if !lease_exists(lease));
    match (no_key, no_lease) {
        (true, true) if single => Err(KvRefusal::LeaseNotFound),
        (true, _) => Err(KvRefusal::KeyNotFound),
        (false, true) => Err(KvRefusal::LeaseNotFound),
        (false, false) => Ok(()),
    }
}

fn check_revision(keyspace: &Keyspace, query: &RangeQuery, single: bool) -> Result<(), KvRefusal> {
    let number = |revision: Revision| i64::try_from(revision.0).unwrap_or(i64::MAX);
    // Where nothing was forgotten yet, etcd counts from below zero.
    let first = keyspace.was_compacted().map_or(-1, number);
    if query.revision > number(keyspace.revision()) {
        Err(KvRefusal::FutureRevision)
    } else if query.revision < first && query.revision != 0 && !(single && query.revision < 0) {
        Err(KvRefusal::Compacted)
    } else {
        Ok(())
    }
}

fn run(transaction: &mut Transaction<'_>, txn: &KvTxn, choice: &Choice) -> KvTxnAnswer {
    let mut inner = choice.inner.iter();
    let mut answers = Vec::new();
    for op in branch(txn, choice.succeeded) {
        answers.push(match op {
            KvOp::Range(query) => KvAnswer::Range(read_within(transaction, query)),
            KvOp::Put(put) => KvAnswer::Put(run_put(transaction, put)),
            KvOp::DeleteRange { range, before } => run_delete(transaction, range, *before),
            KvOp::Txn(txn) => match inner.next() {
                Some(choice) => KvAnswer::Txn(run(transaction, txn, choice)),
                None => continue,
            },
        });
    }
    KvTxnAnswer { succeeded: choice.succeeded, answers }
}

/// A read in a transaction sees what the operations before it did, unless it names an older revision.
fn read_within(transaction: &Transaction<'_>, query: &RangeQuery) -> RangeAnswer {
    // It was checked before the first change, and no revision goes in between.
    read(transaction.keyspace(), query).unwrap_or_default()
}

fn run_put(transaction: &mut Transaction<'_>, put: &Put) -> Option<Pair> {
    let before = transaction.keyspace().get(&put.key).map(|entry| pair(&put.key, entry, false));
    let entry = before.as_ref().map(|pair| &pair.entry);
    let value = put.value.clone().or_else(|| entry.map(|entry| entry.value.clone())).unwrap_or_default();
    let lease = match put.lease {
        PutLease::None => None,
        PutLease::On(lease) => Some(lease),
        PutLease::Keep => entry.and_then(|entry| entry.lease),
    };
    transaction.put(&put.key, value, lease);
    before.filter(|_| put.before)
}

fn run_delete(transaction: &mut Transaction<'_>, range: &KeyRange, before: bool) -> KvAnswer {
    let doomed: Vec<Pair> = transaction.keyspace().range(range).map(|(key, entry)| pair(key, entry, !before)).collect();
    for pair in &doomed {
        transaction.delete(&pair.key);
    }
    KvAnswer::Deleted { keys: doomed.len() as u64, before: if before { doomed } else { Vec::new() } }
}

impl KvTxn {
    /// A transaction of one operation.
    pub fn of(op: KvOp) -> Self {
        Self { success: vec![op], single: true, ..Self::default() }
    }

    /// Checks what can be checked without the keys.
    ///
    /// # Errors
    /// An empty key, too many operations, or a key that is changed twice.
    pub fn validate(&self, ops_max: usize) -> Result<(), KvRefusal> {
        let longest = self.compares.len().max(self.success.len()).max(self.failure.len());
        let left = ops_max.checked_sub(longest).ok_or(KvRefusal::TooManyOps)?;
        if self.compares.iter().any(|compare| compare.range.start().is_empty()) {
            return Err(KvRefusal::EmptyKey);
        }
        for branch in [&self.success, &self.failure] {
            for op in branch {
                op.validate(left)?;
            }
        }
        changes(&self.success)?;
        changes(&self.failure)?;
        Ok(())
    }

    /// The most keys that it may create, and the most bytes, whichever branches are taken.
    pub fn puts_at_most(&self) -> (usize, usize) {
        let of = |ops: &[KvOp]| {
            let each = ops.iter().map(|op| match op {
                KvOp::Put(put) => (1, put.key.len() + put.value.as_ref().map_or(0, Vec::len)),
                KvOp::Txn(txn) => txn.puts_at_most(),
                KvOp::Range(_) | KvOp::DeleteRange { .. } => (0, 0),
            });
            each.fold((0, 0), |(keys, bytes), (more, longer)| (keys + more, bytes + longer))
        };
        let (success, failure) = (of(&self.success), of(&self.failure));
        (success.0.max(failure.0), success.1.max(failure.1))
    }

    /// Whether no branch changes anything.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            KvOp::Range(_) => true,
            KvOp::Put(_) | KvOp::DeleteRange { .. } => false,
            KvOp::Txn(txn) => txn.is_read_only(),
        })
    }
}

impl KvOp {
    fn validate(&self, ops_max: usize) -> Result<(), KvRefusal> {
        let key = match self {
            Self::Range(query) => query.range.start(),
            Self::Put(put) => &put.key,
            Self::DeleteRange { range, .. } => range.start(),
            Self::Txn(txn) => return txn.validate(ops_max),
        };
        if key.is_empty() { Err(KvRefusal::EmptyKey) } else { Ok(()) }
    }
}

/// The keys that a list of operations may put and the ranges that it may delete. Two branches of which only one is taken may name
/// the same key; nothing else may.
fn changes(ops: &[KvOp]) -> Result<(Vec<&[u8]>, Vec<&KeyRange>), KvRefusal> {
    let (mut puts, mut deletions): (Vec<&[u8]>, Vec<&KeyRange>) = (Vec::new(), Vec::new());
    let mut inner = Vec::new();
    for op in ops {
        match op {
            // etcd takes a range without an end for an empty one here.
            KvOp::DeleteRange { range: KeyRange::From(_), .. } => {}
            KvOp::DeleteRange { range, .. } => deletions.push(range),
            KvOp::Txn(txn) => inner.push((changes(&txn.success)?, changes(&txn.failure)?)),
            KvOp::Range(_) | KvOp::Put(_) => {}
        }
    }
    for ((some, ranges), (others, other_ranges)) in inner {
        let either: Vec<&[u8]> = some.iter().chain(others.iter().filter(|key| !some.contains(key))).copied().collect();
        if either.iter().any(|key| puts.contains(key) || deletions.iter().any(|range| range.contains(key))) {
            return Err(KvRefusal::DuplicateKey);
        }
        puts.extend(either);
        deletions.extend(ranges);
        deletions.extend(other_ranges);
    }
    for op in ops {
        let KvOp::Put(put) = op else { continue };
        if puts.contains(&put.key.as_slice()) || deletions.iter().any(|range| range.contains(&put.key)) {
            return Err(KvRefusal::DuplicateKey);
        }
        puts.push(&put.key);
    }
    Ok((puts, deletions))
}
