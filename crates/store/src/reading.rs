//! Reading a range of keys as etcd's clients ask for it: as of a revision, sorted, bounded, limited.

use pgbaton_types::Revision;
use serde::{Deserialize, Serialize};

use crate::KeyRange;
use crate::keyspace::{Entry, Keyspace, RevisionError};

/// A key as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// What it was; without its value where only keys were asked for.
    pub entry: Entry,
}

/// By what an answer is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// Puts since it began to exist.
    Version,
    /// When it began to exist.
    Create,
    /// When it was changed last.
    Mod,
    /// The value.
    Value,
}

/// How an answer is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortOrder {
    /// By key, upwards; upwards as well when something else than the key is the target.
    #[default]
    None,
    /// Upwards.
    Ascend,
    /// Downwards.
    Descend,
}

/// A read of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeQuery {
    /// Which keys.
    pub range: KeyRange,
    /// As of this revision; 0 and below: now. In a transaction one below zero is refused where it is below the first that is kept.
    pub revision: i64,
    /// At most so many; 0: all.
    pub limit: u64,
    /// How the answer is sorted.
    pub order: SortOrder,
    /// By what.
    pub target: SortTarget,
    /// Without values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
    /// Only keys changed in these revisions; 0: no bound.
    pub modified: (i64, i64),
    /// Only keys that began to exist in these revisions; 0: no bound.
    pub created: (i64, i64),
}

impl RangeQuery {
    /// A range as it is now, all of it, by key.
    pub fn now(range: KeyRange) -> Self {
        let unbounded = (0, 0);
        Self {
            range,
            revision: 0,
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            modified: unbounded,
            created: unbounded,
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        let within = |found: Revision, (least, most): (i64, i64)| {
            let found = i64::try_from(found.0).unwrap_or(i64::MAX);
            found >= least && (most == 0 || found <= most)
        };
        within(entry.mod_revision, self.modified) && within(entry.create_revision, self.created)
    }
}

/// What a read found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeAnswer {
    /// The keys, sorted.
    pub pairs: Vec<Pair>,
    /// The limit left some out.
    pub more: bool,
    /// Keys in the range, whatever limit and bounds.
    pub count: u64,
}

/// Reads a range.
///
/// # Errors
/// Its revision is gone or has not come yet.
pub(crate) fn read(keyspace: &Keyspace, query: &RangeQuery) -> Result<RangeAnswer, RevisionError> {
    let revision = match u64::try_from(query.revision) {
        Err(_) | Ok(0) => keyspace.revision(),
        Ok(revision) => Revision(revision),
    };
    let mut found: Vec<(&[u8], &Entry)> = keyspace.range_at(&query.range, revision)?.collect();
    let count = found.len() as u64;
    if query.count_only {
        return Ok(RangeAnswer { count, ..RangeAnswer::default() });
    }
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let everything = query.order != SortOrder::None || query.modified != (0, 0) || query.created != (0, 0);
    if limit > 0 && !everything {
        // As etcd: without an order only the first keys are looked at, and these are sorted.
        found.truncate(limit.saturating_add(1));
    }
    found.retain(|(_, entry)| query.wants(entry));
    sort(&mut found, query);
    let more = limit > 0 && found.len() > limit;
    if more {
        found.truncate(limit);
    }
    let pairs = found.into_iter().map(|(key, entry)| pair(key, entry, query.keys_only)).collect();
    Ok(RangeAnswer { pairs, more, count })
}

pub(crate) fn pair(key: &[u8], entry: &Entry, keys_only: bool) -> Pair {
    let value = if keys_only { Vec::new() } else { entry.value.clone() };
    Pair { key: key.to_vec(), entry: Entry { value, ..entry.clone() } }
}

fn sort(found: &mut [(&[u8], &Entry)], query: &RangeQuery) {
    let compare = |(one_key, one): &(&[u8], &Entry), (other_key, other): &(&[u8], &Entry)| match query.target {
        SortTarget::Key => one_key.cmp(other_key),
        SortTarget::Version => one.version.cmp(&other.version),
        SortTarget::Create => one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => one.value.cmp(&other.value),
    };
    // Both keep those that compare equal in the order of their keys, as etcd does where they are few.
    if query.order == SortOrder::Descend {
        found.sort_by(|one, other| compare(other, one));
    } else {
        found.sort_by(compare);
    }
}
