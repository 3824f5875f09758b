use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::BasicNode;
use openraft::async_runtime::WatchReceiver;
use pgbaton_net::PeerClient;
use pgbaton_types::{BootTime, chain};
use tokio::sync::watch;

use crate::codec;
use crate::node::{Node, lock};
use crate::protocol::{Introduction, Operation, Outcome, PeerAnswer, PeerRequest};
use crate::state_machine::now;

/// How long a peer may take to introduce itself.
const HELLO_WITHIN: Duration = Duration::from_secs(1);

/// The pause between two rounds while the cluster is not formed.
const UNFORMED_PAUSE: Duration = Duration::from_millis(100);

/// The pause between two rounds afterwards; the agent asks for a round of its own when it needs fresh facts.
const FORMED_PAUSE: Duration = Duration::from_secs(10);

/// How long joining may take: the learner is brought up to date first.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// How often at most it is logged whom the forming waits for.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// What a listed member answered when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFact {
    /// The address in the list.
    pub address: String,
    /// What it answered, or why there is no answer.
    pub answer: Result<Introduction, String>,
    /// Since when it has been answering, or not.
    pub since: BootTime,
}

/// How far the forming of the cluster has come.
#[derive(Debug)]
pub(crate) struct Forming {
    facts: Mutex<BTreeMap<String, PeerFact>>,
    formed: watch::Sender<bool>,
}

impl Forming {
    pub(crate) fn new() -> Self {
        Self { facts: Mutex::new(BTreeMap::new()), formed: watch::Sender::new(false) }
    }

    /// What the listed members answered last.
    pub(crate) fn facts(&self) -> Vec<PeerFact> {
        lock(&self.facts).values().cloned().collect()
    }

    /// Becomes true when this node has its vote.
    pub(crate) fn formed(&self) -> watch::Receiver<bool> {
        self.formed.subscribe()
    }

    fn note(&self, address: String, answer: Result<Introduction, String>) {
        let mut facts = lock(&self.facts);
        let before = facts.get(&address).filter(|fact| fact.answer.is_ok() == answer.is_ok());
        let since = before.map_or_else(now, |fact| fact.since);
        facts.insert(address.clone(), PeerFact { address, answer, since });
    }
}

/// Asks every listed member to introduce itself.
pub(crate) async fn ask_all(node: &Arc<Node>, within: Duration) {
    let mut asking = tokio::task::JoinSet::new();
    for address in node.partners.clone() {
        let client = node.client(&address);
        asking.spawn(async move {
            let answer = ask(&client, &address, within).await;
            (address, answer)
        });
    }
    while let Some(answered) = asking.join_next().await {
        // An error is a panic or the shutdown; then there is nothing to note.
        let Ok((address, answer)) = answered else { continue };
        node.forming.note(address, answer);
    }
}

async fn ask(client: &PeerClient, address: &str, within: Duration) -> Result<Introduction, String> {
    match client.call(&codec::encode(&PeerRequest::Hello), within).await {
        Ok(bytes) => match codec::decode(&bytes) {
            Ok(PeerAnswer::Hello(introduction)) => Ok(introduction),
            Ok(other) => Err(format!("{address} answered something else: {other:?}")),
            Err(error) => Err(format!("the answer of {address} is not readable: {error}")),
        },
        Err(error) => Err(chain(&error)),
    }
}

/// Whether somebody answers at this address and is that node.
pub(crate) async fn introduces_itself_as(node: &Node, address: &str, node_id: u64) -> bool {
    let answer = ask(&node.client(address), address, HELLO_WITHIN).await;
    answer.is_ok_and(|introduction| introduction.node_id == node_id)
}

/// Brings this node into a cluster, and keeps the facts about its peers up to date.
///
/// ```text
///   history of our own ------------------------------> take part again (join if we are not a voter)
///   none, and a peer has one ------------------------> join it as a new voter
///   none, and every listed member answered "none" ---> the one with the lowest address initialises
///   none, and somebody does not answer --------------> wait: it may have the history
/// ```
pub(crate) async fn keep(node: Arc<Node>) {
    let mut reminded: Option<BootTime> = None;
    let mut alone = false;
    loop {
        ask_all(&node, HELLO_WITHIN).await;
        let formed = match step(&node).await {
            Ok(formed) => formed,
            Err(problem) => {
                if reminded.is_none_or(|at| now().since(at) >= REMIND_AFTER) {
                    reminded = Some(now());
                    tracing::warn!(problem, "the embedded store is waiting to be formed");
                }
                false
            }
        };
        if formed && !*node.forming.formed.borrow() {
            tracing::info!(node = format!("{:016x}", node.id()), "this voter takes part in the embedded store");
            node.forming.formed.send_replace(true);
        }
        let was_alone = std::mem::replace(&mut alone, formed && !node.is_heard_of(FORMED_PAUSE));
        if was_alone && alone {
            ask_for_vote_again(&node).await;
        }
        tokio::time::sleep(if formed { FORMED_PAUSE } else { UNFORMED_PAUSE }).await;
    }
}

/// A voter whose vote was taken while it was away never hears of it: nobody sends it anything any more, although it may still know a leader
/// that answers it. So it asks to be let in; who still has its vote loses nothing by it.
async fn ask_for_vote_again(node: &Arc<Node>) {
    match join(node, &node.address).await {
        Ok(()) => tracing::info!("no leader sent anything to this voter: it was let in again"),
        Err(problem) => tracing::debug!(problem, "no leader sends anything to this voter"),
    }
}

async fn step(node: &Arc<Node>) -> Result<bool, String> {
    let own = node.introduction().await;
    if own.formed && is_member(node) {
        return Ok(true);
    }
    let facts = node.forming.facts();
    let peers: Vec<&Introduction> = facts.iter().filter_map(|fact| fact.answer.as_ref().ok()).collect();
    if let Some(formed) = peers.iter().find(|peer| peer.formed && peer.node_id != own.node_id) {
        join(node, &formed.address).await?;
        return Ok(false);
    }
    if own.formed {
        return Err("this node has no vote, and no other member answers that could give it one".to_owned());
    }
    let silent: Vec<String> = facts.iter().filter_map(silence).collect();
    if !silent.is_empty() {
        return Err(format!("a new store is formed only when every listed member answers: {}", silent.join("; ")));
    }
    let mut members: BTreeMap<&str, u64> = peers.iter().map(|peer| (peer.address.as_str(), peer.node_id)).collect();
    members.insert(&own.address, own.node_id);
    if members.keys().next() != Some(&own.address.as_str()) {
        return Err("waiting for the member with the lowest address to initialise the store".to_owned());
    }
    initialise(node, &members).await?;
    Ok(false)
}

fn silence(fact: &PeerFact) -> Option<String> {
    let problem = fact.answer.as_ref().err()?;
    Some(format!("{} has not answered for {} s ({problem})", fact.address, now().since(fact.since).as_secs()))
}

/// Whether this node has a vote, at the address that it has now.
fn is_member(node: &Node) -> bool {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let id = metrics.id;
    // A node alone needs no address.
    let reached = membership.get_node(&id).is_some_and(|known| known.addr == node.address || node.partners.is_empty());
    reached && membership.voter_ids().any(|voter| voter == id)
}

async fn initialise(node: &Node, members: &BTreeMap<&str, u64>) -> Result<(), String> {
    let cluster = match node.cluster.load(std::sync::atomic::Ordering::Acquire) {
        0 => rand::random::<u64>().max(1),
        own => own,
    };
    node.adopt_cluster(cluster).await?;
    let voters: BTreeMap<u64, BasicNode> =
        members.iter().map(|(address, id)| (*id, BasicNode::new((*address).to_owned()))).collect();
    tracing::info!(members = ?members.keys(), "every listed member is here and none has a history: forming a new store");
    node.raft.initialize(voters).await.map_err(|error| format!("the new store was not initialised: {error}"))
}

async fn join(node: &Arc<Node>, through: &str) -> Result<(), String> {
    let operation = Operation::Join { node_id: node.id(), address: node.address.clone() };
    // Whoever was asked may not lead; it then names nobody, so each formed peer is asked in turn.
    let mut problem = format!("{through} was not asked");
    for fact in node.forming.facts() {
        let Ok(peer) = &fact.answer else { continue };
        if !peer.formed || peer.node_id == node.id() {
            continue;
        }
        let deadline_ms = u64::try_from(JOIN_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let request = codec::encode(&PeerRequest::Client { operation: operation.clone(), deadline_ms });
        match node.client(&fact.address).call(&request, JOIN_WITHIN).await.map(|bytes| codec::decode(&bytes)) {
            Ok(Ok(PeerAnswer::Client(Outcome::Done))) => return Ok(()),
            Ok(Ok(PeerAnswer::Client(Outcome::NotLeader))) => problem = format!("{} does not lead", peer.address),
            Ok(other) => problem = format!("{} did not give this node a vote: {other:?}", peer.address),
            Err(error) => problem = chain(&error),
        }
    }
    Err(format!("joining the store: {problem}"))
}
