use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::BasicNode;
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use pgbaton_net::{CallError, PeerClient, PeerKey};

use crate::codec;
use crate::protocol::{PeerAnswer, PeerRequest, RaftAnswer, RaftRequest};
use crate::raft_types::TypeConfig;
use crate::raft_types::alias::{Snapshot, Vote};

/// Makes openraft's connections to other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) key: PeerKey,
    /// The cluster that this node belongs to; zero: none yet.
    pub(crate) cluster: Arc<AtomicU64>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let client = PeerClient::new(node.addr.clone(), self.key.clone());
        Peer { target, client, cluster: Arc::clone(&self.cluster) }
    }
}

/// One node, for one of openraft's purposes (replication, heartbeats, votes, snapshots), each with its own connection.
pub(crate) struct Peer {
    target: u64,
    client: PeerClient,
    cluster: Arc<AtomicU64>,
}

impl Peer {
    async fn call(&self, body: RaftRequest, deadline: Duration) -> Result<RaftAnswer, Unreachable<TypeConfig>> {
        let cluster = self.cluster.load(Ordering::Acquire);
        let request = codec::encode(&PeerRequest::Raft { target: self.target, cluster, body });
        let bytes =
            self.client.call(&request, deadline).await.map_err(|error| Unreachable::from_string(chain(&error)))?;
        match codec::decode(&bytes) {
            Ok(PeerAnswer::Raft(answer)) => Ok(answer),
            Ok(PeerAnswer::No(reason)) => Err(Unreachable::from_string(reason)),
            Ok(PeerAnswer::Hello(_) | PeerAnswer::Client(_)) => Err(mixed_up(self.client.address())),
            Err(error) => Err(Unreachable::new(&error)),
        }
    }

    async fn vote_with(
        &self,
        body: RaftRequest,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(body, option.soft_ttl()).await? {
            RaftAnswer::Vote(answer) => Ok(answer),
            _ => Err(mixed_up(self.client.address()).into()),
        }
    }
}

fn mixed_up(address: &str) -> Unreachable<TypeConfig> {
    Unreachable::from_string(format!("{address} answered another question"))
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RaftRequest::Append(rpc), option.soft_ttl()).await? {
            RaftAnswer::Append(answer) => Ok(answer),
            _ => Err(mixed_up(self.client.address()).into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.vote_with(RaftRequest::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.vote_with(RaftRequest::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let body = RaftRequest::Snapshot { vote, meta: snapshot.meta, bytes: snapshot.snapshot };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.call(body, option.soft_ttl()) => match answer? {
                RaftAnswer::Snapshot(answer) => Ok(answer),
                _ => Err(mixed_up(self.client.address()).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RaftRequest::TransferLeader(req), option.soft_ttl()).await? {
            RaftAnswer::TransferLeader(None) => Ok(Ok(())),
            RaftAnswer::TransferLeader(Some(reason)) => Err(Unreachable::from_string(reason).into()),
            _ => Err(mixed_up(self.client.address()).into()),
        }
    }
}
