//! Transactions and keys as etcd has them on the wire, and back.

use pgbaton_etcd_proto::etcdserverpb::{
    self as wire, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse, request_op, response_op,
};
use pgbaton_etcd_proto::mvccpb;
use pgbaton_store::{Compare, CompareOrdering, KeyValue, LeaseId, Op, OpResponse, StoreError, Txn, TxnResult};
use pgbaton_types::Revision;

/// All keys that begin with `prefix`: the end is the first key after them.
pub(crate) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // There is none: a single zero byte stands for the end of all keys.
    vec![0]
}

/// The start of a range that a prefix stands for: the empty one means all keys, which begin after the zero byte.
pub(crate) fn range_start(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() }
}

/// Numbers of leases are signed on the wire.
pub(crate) fn lease_number(lease: Option<LeaseId>) -> i64 {
    lease.map_or(0, |lease| lease.0.cast_signed())
}

fn lease_of(number: i64) -> Option<LeaseId> {
    (number != 0).then(|| LeaseId(number.cast_unsigned()))
}

/// A revision as the wire has it. None of etcd's comes near the end of either.
pub(crate) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A number from the wire, where what is never negative is signed.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The revision in an answer's header.
pub(crate) fn revision(header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
    let header = header.ok_or_else(|| StoreError::Invalid("an answer of the store has no header".to_owned()))?;
    Ok(Revision(unsigned(header.revision)))
}

/// A key; `None`: its name is not text, so it is none of ours.
pub(crate) fn key_value(pair: mvccpb::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: String::from_utf8(pair.key).ok()?,
        value: pair.value,
        create_revision: Revision(unsigned(pair.create_revision)),
        mod_revision: Revision(unsigned(pair.mod_revision)),
        version: unsigned(pair.version),
        lease: lease_of(pair.lease),
    })
}

/// The first lease that the transaction puts a key under: what "requested lease not found" is about.
pub(crate) fn lease_in(txn: &Txn) -> Option<LeaseId> {
    txn.success.iter().chain(&txn.failure).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        _ => None,
    })
}

/// The transaction on the wire.
pub(crate) fn txn_request(txn: &Txn) -> TxnRequest {
    let ops = |ops: &[Op]| ops.iter().map(request_op).collect();
    TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: ops(&txn.success),
        failure: ops(&txn.failure),
    }
}

fn compare(compare: &Compare) -> wire::Compare {
    use wire::compare::{CompareTarget, TargetUnion};
    let equal = CompareOrdering::Equal;
    let (key, ordering, target, figure) = match compare {
        Compare::CreateRevision { key, ordering, revision } => {
            (key, *ordering, CompareTarget::Create, TargetUnion::CreateRevision(signed(*revision)))
        }
        Compare::ModRevision { key, ordering, revision } => {
            (key, *ordering, CompareTarget::Mod, TargetUnion::ModRevision(signed(*revision)))
        }
        Compare::Version { key, ordering, version } => {
            (key, *ordering, CompareTarget::Version, TargetUnion::Version(signed(Revision(*version))))
        }
        Compare::Value { key, value } => (key, equal, CompareTarget::Value, TargetUnion::Value(value.clone())),
        Compare::Lease { key, lease } => (key, equal, CompareTarget::Lease, TargetUnion::Lease(lease_number(*lease))),
    };
    let result = match ordering {
        CompareOrdering::Equal => wire::compare::CompareResult::Equal,
        CompareOrdering::NotEqual => wire::compare::CompareResult::NotEqual,
        CompareOrdering::Greater => wire::compare::CompareResult::Greater,
        CompareOrdering::Less => wire::compare::CompareResult::Less,
    };
    wire::Compare {
        result: result.into(),
        target: target.into(),
        key: key.as_bytes().to_vec(),
        range_end: Vec::new(),
        target_union: Some(figure),
    }
}

/// Hangs a key that exists on another lease; its value stays.
pub(crate) fn move_to(key: &str, lease: LeaseId) -> RequestOp {
    let request = PutRequest {
        key: key.as_bytes().to_vec(),
        lease: lease_number(Some(lease)),
        ignore_value: true,
        ..PutRequest::default()
    };
    RequestOp { request: Some(request_op::Request::RequestPut(request)) }
}

/// A read of one key.
pub(crate) fn get(key: &str) -> RequestOp {
    let request = RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(request)) }
}

fn request_op(op: &Op) -> RequestOp {
    let request = match op {
        Op::Put { key, value, lease } => request_op::Request::RequestPut(PutRequest {
            key: key.as_bytes().to_vec(),
            value: value.clone(),
            lease: lease_number(*lease),
            ..PutRequest::default()
        }),
        Op::Delete { key } => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.as_bytes().to_vec(),
            ..DeleteRangeRequest::default()
        }),
        Op::DeletePrefix { prefix } => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            key: range_start(prefix),
            range_end: range_end(prefix),
            ..DeleteRangeRequest::default()
        }),
        Op::Get { key } => return get(key),
    };
    RequestOp { request: Some(request) }
}

/// What came of a transaction.
pub(crate) fn txn_result(response: TxnResponse) -> Result<TxnResult, StoreError> {
    let revision = revision(response.header.as_ref())?;
    let responses = response.responses.into_iter().map(op_response).collect::<Result<_, _>>()?;
    Ok(TxnResult { succeeded: response.succeeded, revision, responses })
}

fn op_response(response: ResponseOp) -> Result<OpResponse, StoreError> {
    match response.response {
        Some(response_op::Response::ResponsePut(_)) => Ok(OpResponse::Put),
        Some(response_op::Response::ResponseDeleteRange(deleted)) => Ok(OpResponse::Deleted(unsigned(deleted.deleted))),
        Some(response_op::Response::ResponseRange(range)) => {
            Ok(OpResponse::Got(range.kvs.into_iter().next().and_then(key_value)))
        }
        other => Err(StoreError::Invalid(format!("an answer of another kind in a transaction: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_first_key_that_does_not_have_it() {
        assert_eq!(range_end("/a/"), b"/a0");
        assert_eq!(range_end(""), [0]);
        assert_eq!((range_start(""), range_start("/")), (vec![0], b"/".to_vec()));
        // The last byte may be the highest only in text that is none.
        assert_eq!(range_end("\u{10ffff}"), [0xf4, 0x8f, 0xbf, 0xc0]);
    }

    #[test]
    fn leases_keep_their_number_on_the_wire() {
        let lease = Some(LeaseId(u64::MAX - 3));
        assert_eq!(lease_number(lease), -4);
        assert_eq!(lease_of(-4), lease);
        assert_eq!((lease_number(None), lease_of(0)), (0, None));
    }
}
