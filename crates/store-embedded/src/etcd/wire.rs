//! etcd's requests as the machine's, and the machine's answers as etcd's.
//!
//! What etcd checks before it replicates a request is checked here, on the request as it came and in etcd's order, so that a request with
//! two mistakes gets the same answer from both.

use pgbaton_etcd_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, compare, range_request, request_op, response_op,
};
use pgbaton_etcd_proto::mvccpb::KeyValue;
use pgbaton_store::{
    Entry, Figure, KeyRange, KvAnswer, KvCompare, KvOp, KvTxn, KvTxnAnswer, LeaseId, Pair, Put, PutLease, RangeAnswer,
    RangeQuery, Relation, SortOrder, SortTarget,
};

use super::refusal::Mistake;

/// A read.
pub(super) fn range(request: &RangeRequest) -> Result<RangeQuery, Mistake> {
    check_key(&request.key)?;
    Ok(RangeQuery {
        range: KeyRange::of(request.key.clone(), request.range_end.clone()),
        revision: request.revision,
        limit: u64::try_from(request.limit).unwrap_or(0),
        order: match request.sort_order() {
            range_request::SortOrder::None => SortOrder::None,
            range_request::SortOrder::Ascend => SortOrder::Ascend,
            range_request::SortOrder::Descend => SortOrder::Descend,
        },
        target: match request.sort_target() {
            range_request::SortTarget::Key => SortTarget::Key,
            range_request::SortTarget::Version => SortTarget::Version,
            range_request::SortTarget::Create => SortTarget::Create,
            range_request::SortTarget::Mod => SortTarget::Mod,
            range_request::SortTarget::Value => SortTarget::Value,
        },
        keys_only: request.keys_only,
        count_only: request.count_only,
        modified: (request.min_mod_revision, request.max_mod_revision),
        created: (request.min_create_revision, request.max_create_revision),
    })
}

/// A put.
pub(super) fn put(request: &PutRequest) -> Result<Put, Mistake> {
    check_put(request)?;
    let lease = match request.lease {
        _ if request.ignore_lease => PutLease::Keep,
        0 => PutLease::None,
        id => PutLease::On(LeaseId(id.cast_unsigned())),
    };
    let value = (!request.ignore_value).then(|| request.value.clone());
    Ok(Put { key: request.key.clone(), value, lease, before: request.prev_kv })
}

/// A deletion.
pub(super) fn delete_range(request: &DeleteRangeRequest) -> Result<KvOp, Mistake> {
    check_key(&request.key)?;
    let range = KeyRange::of(request.key.clone(), request.range_end.clone());
    Ok(KvOp::DeleteRange { range, before: request.prev_kv })
}

/// A transaction, with at most so many parts.
pub(super) fn txn(request: &TxnRequest, parts_max: usize) -> Result<KvTxn, Mistake> {
    check_txn(request, parts_max)?;
    convert_txn(request)
}

fn convert_txn(request: &TxnRequest) -> Result<KvTxn, Mistake> {
    let ops = |ops: &[RequestOp]| ops.iter().map(op).collect::<Result<Vec<_>, _>>();
    Ok(KvTxn {
        compares: request.compare.iter().map(comparison).collect(),
        success: ops(&request.success)?,
        failure: ops(&request.failure)?,
        single: false,
    })
}

fn op(request: &RequestOp) -> Result<KvOp, Mistake> {
    match &request.request {
        Some(request_op::Request::RequestRange(request)) => range(request).map(KvOp::Range),
        Some(request_op::Request::RequestPut(request)) => put(request).map(KvOp::Put),
        Some(request_op::Request::RequestDeleteRange(request)) => delete_range(request),
        Some(request_op::Request::RequestTxn(request)) => convert_txn(request).map(KvOp::Txn),
        None => Err(Mistake::KeyNotFound),
    }
}

fn comparison(request: &Compare) -> KvCompare {
    // A figure of another kind than the target counts as none was given.
    let figure = match (request.target(), &request.target_union) {
        (compare::CompareTarget::Version, Some(compare::TargetUnion::Version(given))) => Figure::Version(*given),
        (compare::CompareTarget::Version, _) => Figure::Version(0),
        (compare::CompareTarget::Create, Some(compare::TargetUnion::CreateRevision(given))) => Figure::Create(*given),
        (compare::CompareTarget::Create, _) => Figure::Create(0),
        (compare::CompareTarget::Mod, Some(compare::TargetUnion::ModRevision(given))) => Figure::Mod(*given),
        (compare::CompareTarget::Mod, _) => Figure::Mod(0),
        (compare::CompareTarget::Value, Some(compare::TargetUnion::Value(given))) => Figure::Value(given.clone()),
        (compare::CompareTarget::Value, _) => Figure::Value(Vec::new()),
        (compare::CompareTarget::Lease, Some(compare::TargetUnion::Lease(given))) => Figure::Lease(*given),
        (compare::CompareTarget::Lease, _) => Figure::Lease(0),
    };
    let relation = match request.result() {
        compare::CompareResult::Equal => Relation::Equal,
        compare::CompareResult::Greater => Relation::Greater,
        compare::CompareResult::Less => Relation::Less,
        compare::CompareResult::NotEqual => Relation::NotEqual,
    };
    KvCompare { range: KeyRange::of(request.key.clone(), request.range_end.clone()), figure, relation }
}

fn check_key(key: &[u8]) -> Result<(), Mistake> {
    if key.is_empty() { Err(Mistake::EmptyKey) } else { Ok(()) }
}

fn check_put(request: &PutRequest) -> Result<(), Mistake> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Mistake::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Mistake::LeaseProvided);
    }
    Ok(())
}

fn check_txn(request: &TxnRequest, parts_max: usize) -> Result<(), Mistake> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = parts_max.checked_sub(longest).ok_or(Mistake::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    let mut ops = request.success.iter().chain(&request.failure);
    ops.try_for_each(|op| match &op.request {
        Some(request_op::Request::RequestRange(request)) => check_key(&request.key),
        Some(request_op::Request::RequestPut(request)) => check_put(request),
        Some(request_op::Request::RequestDeleteRange(request)) => check_key(&request.key),
        Some(request_op::Request::RequestTxn(request)) => check_txn(request, left),
        None => Err(Mistake::KeyNotFound),
    })
}

/// A key with its value and figures.
pub(super) fn key_value(key: Vec<u8>, entry: Entry) -> KeyValue {
    KeyValue {
        key,
        create_revision: signed(entry.create_revision.0),
        mod_revision: signed(entry.mod_revision.0),
        version: signed(entry.version),
        value: entry.value,
        // Numbers of leases are signed on the wire.
        lease: entry.lease.map_or(0, |lease| lease.0.cast_signed()),
    }
}

fn pair(pair: Pair) -> KeyValue {
    key_value(pair.key, pair.entry)
}

/// A number as the wire has it. None of ours comes near the end of either.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The answer to a read.
pub(super) fn range_response(header: Option<ResponseHeader>, answer: RangeAnswer) -> RangeResponse {
    RangeResponse {
        header,
        kvs: answer.pairs.into_iter().map(pair).collect(),
        more: answer.more,
        count: signed(answer.count),
    }
}

/// The answer to a put.
pub(super) fn put_response(header: Option<ResponseHeader>, before: Option<Pair>) -> PutResponse {
    PutResponse { header, prev_kv: before.map(pair) }
}

/// The answer to a deletion.
pub(super) fn delete_response(header: Option<ResponseHeader>, keys: u64, before: Vec<Pair>) -> DeleteRangeResponse {
    DeleteRangeResponse { header, deleted: signed(keys), prev_kvs: before.into_iter().map(pair).collect() }
}

/// The answer to a transaction.
pub(super) fn txn_response(header: Option<ResponseHeader>, answer: KvTxnAnswer) -> TxnResponse {
    let after = header.as_ref().map_or(0, |header| header.revision);
    let before = if changes(&answer) { after - 1 } else { after };
    TxnResponse { header, ..inner_txn_response(answer, &mut (before, after)) }
}

/// The answers in a transaction carry the revision alone, which is the new one from the first change on; a transaction in it carries none.
fn inner_txn_response(answer: KvTxnAnswer, revisions: &mut (i64, i64)) -> TxnResponse {
    let responses = answer.answers.into_iter().map(|answer| {
        if !matches!(answer, KvAnswer::Txn(_)) && changed(&answer) {
            revisions.0 = revisions.1;
        }
        let header = Some(ResponseHeader { revision: revisions.0, ..ResponseHeader::default() });
        let response = match answer {
            KvAnswer::Range(answer) => response_op::Response::ResponseRange(range_response(header, answer)),
            KvAnswer::Put(before) => response_op::Response::ResponsePut(put_response(header, before)),
            KvAnswer::Deleted { keys, before } => {
                response_op::Response::ResponseDeleteRange(delete_response(header, keys, before))
            }
            KvAnswer::Txn(answer) => response_op::Response::ResponseTxn(inner_txn_response(answer, revisions)),
        };
        ResponseOp { response: Some(response) }
    });
    let responses = responses.collect();
    TxnResponse { header: Some(ResponseHeader::default()), succeeded: answer.succeeded, responses }
}

/// Whether a transaction made a new revision.
fn changes(answer: &KvTxnAnswer) -> bool {
    answer.answers.iter().any(changed)
}

fn changed(answer: &KvAnswer) -> bool {
    match answer {
        KvAnswer::Range(_) => false,
        KvAnswer::Put(_) => true,
        KvAnswer::Deleted { keys, .. } => *keys > 0,
        KvAnswer::Txn(answer) => changes(answer),
    }
}
