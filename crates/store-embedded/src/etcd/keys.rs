//! etcd's service `KV`.

use pgbaton_etcd_proto::etcdserverpb::kv_server::Kv;
use pgbaton_etcd_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op,
};
use pgbaton_store::{Command, KvAnswer, KvDone, KvOp, KvTxn, limits};
use pgbaton_types::Revision;
use prost::Message;
use tonic::{Request, Response, Status};

use super::refusal::{self, Mistake};
use super::{Face, OVERHEAD_BYTES, REQUEST_BYTES_MAX, unexpected, wire};
use crate::protocol::{Operation, Outcome};

impl Face {
    /// Reads: `serializable` by what this node knows, otherwise by what is certain now.
    async fn query(&self, txn: KvTxn, serializable: bool) -> Result<KvDone, Status> {
        if serializable {
            let queried = self.node.machine.locked().machine.query_kv(&txn);
            return queried.map_err(|error| refusal::status(&error.into()));
        }
        match self.call(Operation::QueryKv(txn)).await? {
            Outcome::QueriedKv(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    async fn write(&self, txn: KvTxn, request: &impl Message) -> Result<KvDone, Status> {
        if request.encoded_len() > REQUEST_BYTES_MAX {
            return Err(Mistake::TooLarge.into());
        }
        match self.change(Command::Kv(txn)).await? {
            pgbaton_store::Response::Kv(done) => Ok(done),
            other => Err(Status::internal(format!("a change gave something else: {other:?}"))),
        }
    }
}

/// Says no to what etcd's connection would not take, in the words of its library.
fn check_size(request: &impl Message) -> Result<(), Status> {
    let (bytes, bytes_max) = (request.encoded_len(), REQUEST_BYTES_MAX + OVERHEAD_BYTES);
    if bytes > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({bytes} vs. {bytes_max})"
        )));
    }
    Ok(())
}

/// The answer of a transaction of one operation.
fn only(done: KvDone) -> Result<KvAnswer, Status> {
    let mut answers = done.answer.answers;
    answers.pop().ok_or_else(|| Status::internal("a transaction of one operation without an answer"))
}

fn mixed_up(answer: &KvAnswer) -> Status {
    Status::internal(format!("another operation was answered: {answer:?}"))
}

#[tonic::async_trait]
impl Kv for Face {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        let query = wire::range(&request)?;
        let done = self.query(KvTxn::of(KvOp::Range(query)), request.serializable).await?;
        let header = self.header_at(done.revision);
        match only(done)? {
            KvAnswer::Range(answer) => Ok(Response::new(wire::range_response(header, answer))),
            other => Err(mixed_up(&other)),
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        let put = wire::put(&request)?;
        let done = self.write(KvTxn::of(KvOp::Put(put)), &request).await?;
        let header = self.header_at(done.revision);
        match only(done)? {
            KvAnswer::Put(before) => Ok(Response::new(wire::put_response(header, before))),
            other => Err(mixed_up(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        let deletion = wire::delete_range(&request)?;
        let done = self.write(KvTxn::of(deletion), &request).await?;
        let header = self.header_at(done.revision);
        match only(done)? {
            KvAnswer::Deleted { keys, before } => Ok(Response::new(wire::delete_response(header, keys, before))),
            other => Err(mixed_up(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        let txn = wire::txn(&request, limits::TXN_PARTS_MAX)?;
        let done = if txn.is_read_only() {
            txn.validate(limits::TXN_PARTS_MAX).map_err(|error| Status::from(Mistake::from(&error)))?;
            self.query(txn, is_serializable(&request)).await?
        } else {
            self.write(txn, &request).await?
        };
        Ok(Response::new(wire::txn_response(self.header_at(done.revision), done.answer)))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        // A revision below zero is forgotten already, whatever was.
        let revision = u64::try_from(request.into_inner().revision).map_err(|_| Mistake::Compacted)?;
        let revision = Revision(revision);
        self.change(Command::Compact { revision }).await?;
        Ok(Response::new(CompactionResponse { header: self.header() }))
    }
}

/// A transaction of which each read may be old.
fn is_serializable(request: &TxnRequest) -> bool {
    let may_be_old = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestRange(request)) => request.serializable,
        _ => false,
    };
    request.success.iter().chain(&request.failure).all(may_be_old)
}
