//! Why a request is refused, in etcd's words and codes (etcd 3.4, `api/v3rpc/rpctypes`): clients compare them.

use pgbaton_store::{KvRefusal, Refusal, StoreError};
use tonic::{Code, Status};

/// What is wrong with a request, in itself or by the state of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTooLong,
    TooLarge,
    MemberNotFound,
}

impl Mistake {
    fn words(self) -> (Code, &'static str) {
        match self {
            Self::EmptyKey => (Code::InvalidArgument, "key is not provided"),
            Self::KeyNotFound => (Code::InvalidArgument, "key not found"),
            Self::ValueProvided => (Code::InvalidArgument, "value is provided"),
            Self::LeaseProvided => (Code::InvalidArgument, "lease is provided"),
            Self::TooManyOps => (Code::InvalidArgument, "too many operations in txn request"),
            Self::DuplicateKey => (Code::InvalidArgument, "duplicate key given in txn request"),
            Self::Compacted => (Code::OutOfRange, "mvcc: required revision has been compacted"),
            Self::FutureRevision => (Code::OutOfRange, "mvcc: required revision is a future revision"),
            Self::NoSpace => (Code::ResourceExhausted, "mvcc: database space exceeded"),
            Self::LeaseNotFound => (Code::NotFound, "requested lease not found"),
            Self::LeaseExists => (Code::FailedPrecondition, "lease already exists"),
            Self::LeaseTooLong => (Code::OutOfRange, "too large lease TTL"),
            Self::TooLarge => (Code::InvalidArgument, "request is too large"),
            Self::MemberNotFound => (Code::NotFound, "member not found"),
        }
    }
}

impl From<Mistake> for Status {
    fn from(mistake: Mistake) -> Self {
        let (code, words) = mistake.words();
        Self::new(code, format!("etcdserver: {words}"))
    }
}

impl From<&KvRefusal> for Mistake {
    fn from(refusal: &KvRefusal) -> Self {
        match refusal {
            KvRefusal::EmptyKey => Self::EmptyKey,
            KvRefusal::DuplicateKey => Self::DuplicateKey,
            KvRefusal::TooManyOps => Self::TooManyOps,
            KvRefusal::KeyNotFound => Self::KeyNotFound,
            KvRefusal::LeaseNotFound => Self::LeaseNotFound,
            KvRefusal::Compacted => Self::Compacted,
            KvRefusal::FutureRevision => Self::FutureRevision,
            KvRefusal::NoSpace => Self::NoSpace,
        }
    }
}

/// What a store's error is to a client of etcd's protocol.
pub(super) fn status(error: &StoreError) -> Status {
    match error {
        StoreError::Refused(Refusal::Kv(refusal)) => Mistake::from(refusal).into(),
        StoreError::Refused(Refusal::LeaseNotFound(_) | Refusal::LeaseExpiring(_)) => Mistake::LeaseNotFound.into(),
        StoreError::Refused(Refusal::LeaseExists(_)) => Mistake::LeaseExists.into(),
        StoreError::Refused(refusal) => Status::failed_precondition(refusal.to_string()),
        // etcd's own words for both: clients take them as a reason to ask another member.
        StoreError::Unavailable { .. } => Status::unavailable("etcdserver: no leader"),
        StoreError::Indeterminate { .. } => Status::unavailable("etcdserver: request timed out"),
        StoreError::Invalid(words) => Status::invalid_argument(words.clone()),
    }
}
