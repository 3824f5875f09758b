//! etcd's client protocol over the embedded store (etcd 3.4, "API reference"): what a cluster manager and its tools need of it.
//!
//! ```text
//!   the peer port ── first bytes of HTTP/2? ── tonic ── one file per service below
//!                                                         │ wire: etcd's requests as the machine's, and back
//!   reads that may be old and watches ────────────────────┼── this node's applied state
//!   everything else ──────────────────────────────────────┴── Node::call: whoever leads
//! ```
//!
//! What is not served answers `Unimplemented`: roles and users, members that are added by others, alarms, snapshots, elections and locks.

mod auth;
mod cluster;
mod keys;
mod lease;
mod refusal;
mod serve;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use pgbaton_etcd_proto::etcdserverpb::ResponseHeader;
use pgbaton_store::Command;
use pgbaton_types::Revision;
use tonic::Status;

use crate::node::Node;
use crate::protocol::{Operation, Outcome};
pub(crate) use serve::EtcdServer;
pub use serve::ServerTls;

/// How long a request may take when its client sets no limit: etcd's own, 5 s and twice its election timeout.
const REQUEST_TIME: Duration = Duration::from_secs(7);

/// The longest request in bytes: etcd's `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1_572_864;

/// What may come beside it in a message before the connection says no by itself, as etcd has it.
const OVERHEAD_BYTES: usize = 512 * 1024;

/// One node's face to clients of etcd's protocol.
#[derive(Clone)]
pub(crate) struct Face {
    node: Arc<Node>,
    /// Of the addresses at which clients are served: the same on every member.
    scheme: &'static str,
}

impl Face {
    /// Has the leader do something.
    async fn call(&self, operation: Operation) -> Result<Outcome, Status> {
        self.node.call(operation, REQUEST_TIME).await.map_err(|error| refusal::status(&error))
    }

    async fn change(&self, command: Command) -> Result<pgbaton_store::Response, Status> {
        match self.call(Operation::Change(command)).await? {
            Outcome::Changed(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    /// The header of an answer that shows this revision.
    #[expect(clippy::unnecessary_wraps, reason = "protobuf has every message in an option")]
    fn header_at(&self, revision: Revision) -> Option<ResponseHeader> {
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        Some(ResponseHeader {
            cluster_id: self.node.cluster.load(std::sync::atomic::Ordering::Acquire),
            member_id: self.node.id(),
            revision: wire::signed(revision.0),
            raft_term: metrics.current_term,
        })
    }

    /// The header of an answer that shows what this node has applied.
    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.node.machine.locked().machine.revision();
        self.header_at(revision)
    }
}

fn unexpected(outcome: &Outcome) -> Status {
    Status::internal(format!("the leader answered something else: {outcome:?}"))
}
