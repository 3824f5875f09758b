use std::time::Duration;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use pgbaton_store::{Command, KvDone, KvTxn, LeaseId, Refusal, Renewal, Response, Snapshot, Txn, TxnResult};
use serde::{Deserialize, Serialize};

use crate::raft_types::TypeConfig;
use crate::raft_types::alias::{SnapshotMeta, Vote};

/// What one node asks another. On the wire behind [`crate::codec`]'s version byte.
#[derive(Serialize, Deserialize)]
pub(crate) enum PeerRequest {
    /// Who are you?
    Hello,
    /// A message of Raft for exactly this node: ids are never used again, so an answer can only come from whom it was
    /// meant for.
    Raft { target: u64, cluster: u64, body: RaftRequest },
    /// A client's request, passed on to the leader.
    Client { operation: Operation, deadline_ms: u64 },
}

#[derive(Serialize, Deserialize)]
pub(crate) enum RaftRequest {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerAnswer {
    Hello(Introduction),
    Raft(RaftAnswer),
    Client(Outcome),
    /// Not done, and why.
    No(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftAnswer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    /// The node takes over, or says why not.
    TransferLeader(Option<String>),
}

/// How a node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its number: random, kept in its data directory, never used again.
    pub node_id: u64,
    /// The cluster that it belongs to, once it does.
    pub cluster_id: Option<u64>,
    /// Where others reach it.
    pub address: String,
    /// Whether it has any history. A node without is pristine: it has never voted and holds nothing.
    pub formed: bool,
    /// What its agent says about the data directory of its database, in the agent's own format.
    #[serde(with = "serde_bytes")]
    pub host_facts: Option<Vec<u8>>,
}

/// What a client wants of the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Operation {
    Change(Command),
    Query(Txn),
    Snapshot {
        prefix: String,
    },
    TimeToLive(LeaseId),
    Renew(Renewal),
    /// A node without a vote wants one, in the place of whoever had its address.
    Join {
        node_id: u64,
        address: String,
    },
    /// A transaction of etcd's protocol that changes nothing.
    QueryKv(KvTxn),
    /// A renewal that says nothing of a key, as clients of etcd's protocol ask for it.
    KeepAlive(LeaseId),
    /// What is known of a lease.
    LeaseStatus(LeaseId),
    /// Takes the vote of a node that is gone.
    Dismiss {
        node_id: u64,
    },
}

impl Operation {
    /// Whether it may have taken effect although no answer came.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Self::Change(_) | Self::Dismiss { .. })
    }
}

/// What came of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Changed(Response),
    Queried(TxnResult),
    Snapshot(Snapshot),
    TimeToLive(Duration),
    Done,
    Refused(Refusal),
    /// This node does not lead: nothing was done.
    NotLeader,
    /// Nothing was done, for another reason.
    Unavailable(String),
    /// It may have been done.
    Indeterminate(String),
    QueriedKv(KvDone),
    LeaseStatus {
        granted: Duration,
        left: Duration,
        keys: Vec<Vec<u8>>,
    },
}
