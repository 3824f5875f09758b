//! What a failed call says. etcd tells its errors apart by their text (`api/v3rpc/rpctypes/error.go`); the codes are too few.

use std::error::Error;

use pgbaton_store::{Refusal, StoreError};
use tonic::{Code, ConnectError, Status};

/// What a failed call says.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing was done; another endpoint may do it.
    Elsewhere,
    /// Nothing was done: the token is not valid any more.
    Token,
    /// The lease does not exist.
    NoLease,
    /// Nobody knows whether it was done.
    Unknown,
    /// No, whoever is asked.
    Final(StoreError),
}

/// Judges a failed call.
pub(crate) fn judge(status: &Status) -> Verdict {
    if never_sent(status) {
        return Verdict::Elsewhere;
    }
    let text = status.message();
    let says = |what: &str| text.contains(what);
    match status.code() {
        Code::NotFound if says("requested lease not found") => Verdict::NoLease,
        Code::Unauthenticated => Verdict::Token,
        Code::InvalidArgument | Code::FailedPrecondition if says("auth token") || says("auth revision") => Verdict::Token,
        Code::Unavailable if says("etcdserver: no leader") || says("not capable") || says("etcdserver: server stopped") => {
            Verdict::Elsewhere
        }
        // A change of its members that would cost the majority, or soon after another one.
        Code::Unavailable if says("etcdserver: unhealthy cluster") => {
            Verdict::Final(StoreError::Refused(Refusal::Invalid(text.to_owned())))
        }
        Code::ResourceExhausted if says("too many requests") => Verdict::Elsewhere,
        Code::ResourceExhausted if says("database space exceeded") => Verdict::Final(StoreError::Refused(Refusal::Limit(
            "etcd takes no more writes, its space is used up: compact and defragment it, then `etcdctl alarm disarm`".to_owned(),
        ))),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            Verdict::Final(StoreError::Refused(Refusal::Invalid(text.to_owned())))
        }
        Code::PermissionDenied | Code::Unimplemented => Verdict::Final(StoreError::Invalid(text.to_owned())),
        _ => Verdict::Unknown,
    }
}

/// Whether there was no connection to send it by.
fn never_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A status with its causes, in one line.
pub(crate) fn words(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_told_from_what_was_not() {
        let verdict = |code, text: &str| judge(&Status::new(code, text));
        assert!(matches!(verdict(Code::Unavailable, "etcdserver: no leader"), Verdict::Elsewhere));
        assert!(matches!(verdict(Code::Unavailable, "etcdserver: request timed out"), Verdict::Unknown));
        assert!(matches!(verdict(Code::Unavailable, "error reading a body from connection"), Verdict::Unknown));
        assert!(matches!(verdict(Code::Unauthenticated, "etcdserver: invalid auth token"), Verdict::Token));
        assert!(matches!(verdict(Code::NotFound, "etcdserver: requested lease not found"), Verdict::NoLease));
        let full = verdict(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Verdict::Final(StoreError::Refused(Refusal::Limit(_)))), "{full:?}");
        assert!(matches!(verdict(Code::PermissionDenied, "etcdserver: permission denied"), Verdict::Final(_)));
    }
}
