use serde::{Deserialize, Serialize};

use crate::LeaseId;
use crate::kv::KvRefusal;
use pgbaton_types::Revision;

/// Why the store, being well and in touch with its majority, said no. Final: the same request gets the same answer
/// until the state changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such lease: it never was, was revoked or has expired.
    #[error("lease {0} does not exist (never granted, revoked or expired)")]
    LeaseNotFound(LeaseId),
    /// A lease with this number exists already.
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    /// The lease ran out and its end is on the way to the log; nothing can extend it any more.
    #[error("lease {0} has run out and is being ended")]
    LeaseExpiring(LeaseId),
    /// The leader key is gone, is another one, or hangs on another lease: whoever asked does not hold it any more.
    #[error(
        "key {key:?} is not held any more: wanted create revision {wanted} under lease {lease}, found {}",
        .found.map_or_else(|| "no such key".to_owned(), |revision| format!("create revision {revision} or another lease"))
    )]
    NotHolder {
        /// The leader key.
        key: String,
        /// The lease that it should hang on.
        lease: LeaseId,
        /// The create revision that it should have.
        wanted: Revision,
        /// The create revision that it has, if it exists.
        found: Option<Revision>,
    },
    /// A limit of the machine would be exceeded.
    #[error("limit exceeded: {0}")]
    Limit(String),
    /// The request contradicts itself, such as a put and a delete of one key in one transaction.
    #[error("the request is not valid: {0}")]
    Invalid(String),
    /// A request of etcd's protocol is refused.
    #[error(transparent)]
    Kv(KvRefusal),
}

/// What came of a call to a store. The distinction that matters is whether a change may have happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store could not be asked. Certainly nothing was changed by this call.
    #[error("the store is not available: {what}")]
    Unavailable {
        /// What was tried, with whom, and since when it fails.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxedError>,
    },
    /// The request went out and no answer came: it may or may not have been applied, and may still be.
    #[error("the outcome is not known: {what}")]
    Indeterminate {
        /// What was tried and with whom.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxedError>,
    },
    /// The store answered, with no.
    #[error("the store refused")]
    Refused(#[source] Refusal),
    /// The request or its answer makes no sense; asking again does not help.
    #[error("not a valid request to the store: {0}")]
    Invalid(String),
}

/// The cause of an error, of whatever type.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Certainly not applied, without a deeper cause.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), source: None }
    }

    /// Maybe applied, without a deeper cause.
    pub fn indeterminate(what: impl Into<String>) -> Self {
        Self::Indeterminate { what: what.into(), source: None }
    }

    /// Whether the change may have happened (or may still happen) although the call failed.
    pub fn is_indeterminate(&self) -> bool {
        matches!(self, Self::Indeterminate { .. })
    }

    /// The store's no, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
