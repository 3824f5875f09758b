use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use pgbaton_net::{PeerClient, PeerKey};
use pgbaton_types::chain;

use crate::codec;
use crate::pipeline::{Answered, Pipeline};
use crate::protocol::{PeerAnswer, PeerRequest, RaftAnswer, RaftRequest};
use crate::raft_types::TypeConfig;
use crate::raft_types::alias::{Snapshot, Vote};
use crate::timing::RECONNECT_PAUSE;

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
    pub(crate) client: PeerClient,
    cluster: Arc<AtomicU64>,
}

impl Peer {
    pub(crate) fn encode(&self, body: RaftRequest) -> Vec<u8> {
        let cluster = self.cluster.load(Ordering::Acquire);
        codec::encode(&PeerRequest::Raft { target: self.target, cluster, body })
    }

    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<RaftAnswer, Unreachable<TypeConfig>> {
        match codec::decode(bytes) {
            Ok(PeerAnswer::Raft(answer)) => Ok(answer),
            Ok(PeerAnswer::No(reason)) => Err(Unreachable::from_string(reason)),
            Ok(PeerAnswer::Hello(_) | PeerAnswer::Client(_)) => Err(self.mixed_up()),
            Err(error) => Err(Unreachable::new(&error)),
        }
    }

    pub(crate) fn mixed_up(&self) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format!("{} answered another question", self.client.address()))
    }

    async fn call(&self, body: RaftRequest, deadline: Duration) -> Result<RaftAnswer, Unreachable<TypeConfig>> {
        let answer = self.client.call(&self.encode(body), deadline).await;
        self.decode(&answer.map_err(|error| Unreachable::from_string(chain(&error)))?)
    }

    async fn vote_with(
        &self,
        body: RaftRequest,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(body, option.soft_ttl()).await? {
            RaftAnswer::Vote(answer) => Ok(answer),
            _ => Err(self.mixed_up().into()),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Answered>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let answers: BoxStream<'s, Answered> = Box::pin(Pipeline::new(self, input, option.soft_ttl()).answers());
        Box::pin(std::future::ready(Ok(answers)))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT_PAUSE)))
    }

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(RaftRequest::Append(rpc), option.soft_ttl()).await? {
            RaftAnswer::Append(answer) => Ok(answer),
            _ => Err(self.mixed_up().into()),
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
                _ => Err(self.mixed_up().into()),
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
            _ => Err(self.mixed_up().into()),
        }
    }
}
