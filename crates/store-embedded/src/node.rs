use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::{BasicNode, ChangeMembers, Raft, ServerState};
use pgbaton_net::{FrameError, PeerClient, PeerHandler, PeerKey};
use pgbaton_store::{Command, LeaseId, Machine, Refusal, Renewal};
use pgbaton_types::BootTime;

use crate::codec;
use crate::forming::{self, Forming};
use crate::identity::Identity;
use crate::log::FlushWatch;
use crate::protocol::{Introduction, Operation, Outcome, PeerAnswer, PeerRequest, RaftAnswer, RaftRequest};
use crate::raft_types::{Request, TypeConfig};
use crate::read_barrier::ReadBarrier;
use crate::state_machine::{StateMachine, now};
use crate::timing::STUCK_FLUSH;

/// What the agent says about its database, for those who ask.
pub type HostFacts = Arc<dyn Fn() -> Option<Vec<u8>> + Send + Sync>;

/// A node of the store: answers its peers, and its own agent's operations when it leads.
pub(crate) struct Node {
    pub(crate) raft: Raft<TypeConfig, StateMachine>,
    pub(crate) barrier: ReadBarrier,
    pub(crate) machine: StateMachine,
    pub(crate) directory: PathBuf,
    pub(crate) address: String,
    pub(crate) partners: Vec<String>,
    pub(crate) key: PeerKey,
    pub(crate) host_facts: HostFacts,
    pub(crate) flush: Arc<FlushWatch>,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) cluster: Arc<AtomicU64>,
    pub(crate) forming: Forming,
    pub(crate) prefers_not_to_lead: AtomicBool,
    pub(crate) fatal: Mutex<Option<String>>,
    /// When a leader last sent something, as boot time in nanoseconds; zero: never since this node was opened.
    pub(crate) heard: AtomicU64,
    /// One change of membership at a time.
    pub(crate) joining: tokio::sync::Mutex<()>,
    pub(crate) clients: Mutex<BTreeMap<String, Arc<PeerClient>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(crate) fn id(&self) -> u64 {
        lock(&self.identity).node_id
    }

    /// The client for this address, made at first use.
    pub(crate) fn client(&self, address: &str) -> Arc<PeerClient> {
        let mut clients = lock(&self.clients);
        let client = clients.entry(address.to_owned());
        Arc::clone(client.or_insert_with(|| Arc::new(PeerClient::new(address, self.key.clone()))))
    }

    /// The leader that this node knows, with its address.
    pub(crate) fn leader(&self) -> Option<(u64, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&leader)?;
        Some((leader, node.addr.clone()))
    }

    /// The term in which this node leads, as far as it knows. From here on lease times belong to that term.
    pub(crate) fn leading_term(&self) -> Option<u64> {
        // The first of openraft's channels that tells it.
        let server = self.raft.server_metrics();
        let leads_in = {
            let server = server.borrow_watched();
            (server.state == ServerState::Leader).then(|| server.vote.leader_id().term)
        };
        let mut applied = self.machine.locked();
        if applied.leads_in != leads_in {
            let applied = &mut *applied;
            match leads_in {
                Some(term) => applied.times.begin_term(term, now(), &applied.machine),
                None => applied.times.end_term(),
            }
            applied.leads_in = leads_in;
        }
        leads_in
    }

    /// Whether a leader has sent something within this time, or this node leads.
    pub(crate) fn is_heard_of(&self, within: Duration) -> bool {
        let heard = BootTime(self.heard.load(Ordering::Acquire));
        self.leading_term().is_some() || (heard.0 != 0 && now().since(heard) < within)
    }

    /// Notes what ended this voter; the first reason stays.
    pub(crate) fn set_fatal(&self, reason: String) {
        let mut fatal = lock(&self.fatal);
        if fatal.is_none() {
            tracing::error!(reason, "this voter of the embedded store has stopped");
            *fatal = Some(reason);
        }
    }

    /// How this node introduces itself.
    pub(crate) async fn introduction(&self) -> Introduction {
        let identity = *lock(&self.identity);
        Introduction {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            address: self.address.clone(),
            // What cannot be asked must not pass for pristine.
            formed: self.raft.is_initialized().await.unwrap_or(true),
            host_facts: (self.host_facts)(),
        }
    }

    /// Makes this node part of a cluster, durably, before anything of that cluster is taken in.
    pub(crate) async fn adopt_cluster(&self, cluster: u64) -> Result<(), String> {
        let own = self.cluster.load(Ordering::Acquire);
        if own == cluster {
            return Ok(());
        }
        if own != 0 || cluster == 0 {
            return Err(format!("this node belongs to cluster {own:016x}, not {cluster:016x}"));
        }
        let identity = Identity { cluster_id: Some(cluster), ..*lock(&self.identity) };
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || identity.write(&directory)).await;
        match written {
            Ok(Ok(())) => {
                *lock(&self.identity) = identity;
                self.cluster.store(cluster, Ordering::Release);
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn answer(&self, request: PeerRequest) -> PeerAnswer {
        match request {
            PeerRequest::Hello => PeerAnswer::Hello(self.introduction().await),
            PeerRequest::Client { operation, deadline_ms } => {
                PeerAnswer::Client(self.serve(operation, Duration::from_millis(deadline_ms)).await)
            }
            PeerRequest::Raft { target, cluster, body } => {
                let own = self.id();
                if target != own {
                    return PeerAnswer::No(format!("this is node {own:016x}, not {target:016x}"));
                }
                if let Err(reason) = self.adopt_cluster(cluster).await {
                    return PeerAnswer::No(reason);
                }
                self.answer_raft(body).await.map_or_else(PeerAnswer::No, PeerAnswer::Raft)
            }
        }
    }

    async fn answer_raft(&self, body: RaftRequest) -> Result<RaftAnswer, String> {
        let text = |error: RaftError<TypeConfig>| error.to_string();
        let fatal = |error: Fatal<TypeConfig>| error.to_string();
        Ok(match body {
            RaftRequest::Append(rpc) => {
                self.heard.store(now().0, Ordering::Release);
                RaftAnswer::Append(self.raft.append_entries(rpc).await.map_err(text)?)
            }
            RaftRequest::Vote(rpc) => RaftAnswer::Vote(self.raft.vote(rpc).await.map_err(text)?),
            RaftRequest::PreVote(rpc) => RaftAnswer::Vote(self.raft.pre_vote(rpc).await.map_err(text)?),
            RaftRequest::Snapshot { vote, meta, bytes } => {
                let snapshot = openraft::storage::Snapshot { meta, snapshot: bytes };
                RaftAnswer::Snapshot(self.raft.install_full_snapshot(vote, snapshot).await.map_err(fatal)?)
            }
            RaftRequest::TransferLeader(rpc) => {
                let answer = self.raft.handle_transfer_leader(rpc).await.map_err(fatal)?;
                RaftAnswer::TransferLeader(answer.err().map(|error| error.to_string()))
            }
        })
    }

    /// Does an operation, if this node leads, within the deadline.
    pub(crate) async fn serve(&self, operation: Operation, deadline: Duration) -> Outcome {
        let changes = operation.changes();
        tokio::time::timeout(deadline, self.serve_now(operation)).await.unwrap_or_else(|_| {
            let text = format!("the leader did not finish within {} ms", deadline.as_millis());
            if changes { Outcome::Indeterminate(text) } else { Outcome::Unavailable(text) }
        })
    }

    async fn serve_now(&self, operation: Operation) -> Outcome {
        if let Some(reason) = lock(&self.fatal).clone() {
            return Outcome::Unavailable(format!("the voter at {} has stopped: {reason}", self.address));
        }
        let result = match operation {
            Operation::Change(command) => self.change(command).await,
            Operation::Query(txn) => {
                self.read(|node| node.machine.locked().machine.query(&txn).map(Outcome::Queried)).await
            }
            Operation::Snapshot { prefix } => {
                self.read(|node| {
                    let applied = node.machine.locked();
                    let (revision, items) = (applied.machine.revision(), applied.machine.range(&prefix));
                    Ok(Outcome::Snapshot(pgbaton_store::Snapshot { revision, items }))
                })
                .await
            }
            Operation::TimeToLive(id) => {
                self.read(|node| {
                    let ttl = node.machine.locked().machine.lease_ttl(id);
                    ttl.map(Outcome::TimeToLive).ok_or(Refusal::LeaseNotFound(id))
                })
                .await
            }
            Operation::Renew(renewal) => self.renew(&renewal).await,
            Operation::Join { node_id, address } => self.admit(node_id, address).await,
            Operation::QueryKv(txn) => {
                self.read(|node| node.machine.locked().machine.query_kv(&txn).map(Outcome::QueriedKv)).await
            }
            Operation::KeepAlive(id) => self.extend(id, |_| Ok(())).await,
            Operation::LeaseStatus(id) => self.lease_status(id).await,
            Operation::Dismiss { node_id } => self.dismiss(node_id).await,
        };
        result.unwrap_or_else(|outcome| outcome)
    }

    async fn change(&self, command: Command) -> Result<Outcome, Outcome> {
        match self.raft.client_write(Request(command)).await {
            Ok(written) => Ok(match written.data.0 {
                Some(Ok(response)) => Outcome::Changed(response),
                Some(Err(refusal)) => Outcome::Refused(refusal),
                None => Outcome::Indeterminate("the log has another kind of entry in its place".to_owned()),
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Outcome::NotLeader),
            Err(error) => Err(Outcome::Indeterminate(error.to_string())),
        }
    }

    /// Reads the applied state after making sure, by asking a majority, that it shows everything answered so far.
    async fn read(&self, read: impl FnOnce(&Self) -> Result<Outcome, Refusal>) -> Result<Outcome, Outcome> {
        self.barrier.pass().await?;
        Ok(read(self).unwrap_or_else(Outcome::Refused))
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Outcome, Outcome> {
        let holds =
            |machine: &Machine| machine.check_holder(&renewal.leader_key, renewal.epoch_create_revision, renewal.lease);
        self.extend(renewal.lease, holds).await
    }

    /// Gives a lease its full time again, from the arrival of this on, if the applied state is as it should be.
    async fn extend(
        &self,
        lease: LeaseId,
        check: impl FnOnce(&Machine) -> Result<(), Refusal>,
    ) -> Result<Outcome, Outcome> {
        let term = self.leading_term().ok_or(Outcome::NotLeader)?;
        let arrival = self.machine.locked().times.arrive(now());
        if self.barrier.pass().await? != term {
            return Err(Outcome::NotLeader);
        }
        let busy = self.flush.busy_for(now());
        if busy > STUCK_FLUSH {
            return Err(Outcome::Unavailable(format!(
                "the leader's disk has not answered for {} ms",
                busy.as_millis()
            )));
        }
        let mut applied = self.machine.locked();
        match check(&applied.machine).and_then(|()| applied.times.extend(lease, arrival).transpose()) {
            Ok(Some(())) => Ok(Outcome::Done),
            Ok(None) => Err(Outcome::NotLeader),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    async fn lease_status(&self, id: LeaseId) -> Result<Outcome, Outcome> {
        let term = self.leading_term().ok_or(Outcome::NotLeader)?;
        if self.barrier.pass().await? != term {
            return Err(Outcome::NotLeader);
        }
        let applied = self.machine.locked();
        let times = applied.machine.lease_ttl(id).zip(applied.times.expiry(id));
        Ok(times.map_or(Outcome::Refused(Refusal::LeaseNotFound(id)), |(granted, expiry)| Outcome::LeaseStatus {
            granted,
            left: expiry.since(now()),
            keys: applied.machine.keys_under(id),
        }))
    }

    /// Gives a node a vote: as a learner first, then in the place of whoever had its address.
    async fn admit(&self, node_id: u64, address: String) -> Result<Outcome, Outcome> {
        let _one_at_a_time = self.joining.lock().await;
        self.barrier.pass().await?;
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.membership().clone();
        let known = membership.get_node(&node_id).map(|node| node.addr.clone());
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.contains(&node_id) && known.as_ref() == Some(&address) && membership.get_joint_config().len() == 1 {
            return Ok(Outcome::Done);
        }
        let node = BasicNode::new(address.clone());
        if known.as_ref().is_some_and(|known| *known != address) {
            let moved = ChangeMembers::SetNodes(BTreeMap::from([(node_id, node)]));
            self.raft.change_membership(moved, true).await.map_err(unchanged)?;
        } else if known.is_none() {
            self.raft.add_learner(node_id, node, true).await.map_err(unchanged)?;
        }
        let replaced: Vec<u64> = voters
            .iter()
            .copied()
            .filter(|id| *id != node_id && membership.get_node(id).is_some_and(|node| node.addr == address))
            .collect();
        voters.retain(|id| !replaced.contains(id));
        voters.insert(node_id);
        tracing::info!(node = format!("{node_id:016x}"), address, ?replaced, "a voter joins the embedded store");
        self.raft.change_membership(voters, false).await.map_err(unchanged)?;
        Ok(Outcome::Done)
    }

    /// Takes the vote of a node that does not answer: one that does would only join again.
    async fn dismiss(&self, node_id: u64) -> Result<Outcome, Outcome> {
        let _one_at_a_time = self.joining.lock().await;
        self.barrier.pass().await?;
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.membership().clone();
        let refused = |text: String| Ok(Outcome::Refused(Refusal::Invalid(text)));
        let Some(address) = membership.get_node(&node_id).map(|node| node.addr.clone()) else {
            return refused(format!("the store has no member {node_id:016x}"));
        };
        if node_id == self.id() || forming::introduces_itself_as(self, &address, node_id).await {
            return refused(format!("the member at {address} runs, and would join again: stop it first"));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().filter(|id| *id != node_id).collect();
        tracing::info!(node = format!("{node_id:016x}"), address, "a voter is removed from the embedded store");
        self.raft.change_membership(voters, false).await.map_err(unchanged)?;
        Ok(Outcome::Done)
    }
}

fn unchanged(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Outcome {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Outcome::NotLeader,
        error => Outcome::Unavailable(format!("the membership was not changed: {error}")),
    }
}

/// The server's side: passes a peer's requests to the node.
pub(crate) struct Handler(pub(crate) Arc<Node>);

impl PeerHandler for Handler {
    fn handle(&self, request: Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send + '_>> {
        Box::pin(async move {
            let answer = match codec::decode(&request) {
                Ok(request) => self.0.answer(request).await,
                Err(error) => PeerAnswer::No(format!("the request is not readable: {error}")),
            };
            Some(codec::encode(&answer))
        })
    }

    fn report(&self, error: FrameError) {
        match &error {
            FrameError::Io { .. } | FrameError::Timeout { .. } => tracing::debug!(%error, "a peer's connection ended"),
            _ => tracing::warn!(%error, "a connection to the embedded store was refused"),
        }
    }
}
