//! Asking other members, over their REST API. Nobody waits for an answer: it comes as an event, or it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgbaton_api::{
    PATH_POSITION, PATH_PREPARE, PATH_PROVE, Position, PrepareReply, PrepareRequest, Proof, ProveRequest,
};
use pgbaton_core::observation::{HostFacts, PeerAnswer};
use pgbaton_net::{HttpClient, HttpError};
use pgbaton_types::{BootTime, Epoch, MemberName, ShutdownCheckpoint, chain};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::context::Context;
use crate::event::{Event, PeerUpdate};
use crate::keys;
use crate::known_members::Members;

/// How long a member may take to say where it stands: whoever looks anew asks its server, which takes milliseconds.
const POSITION_TIME: Duration = Duration::from_millis(1000);
/// How long the answer to a preparation may take: it is given when the work is under way.
const PREPARE_TIME: Duration = Duration::from_millis(1500);
/// How long the candidate may wait for the record before it says no.
const PROVE_WAIT: Duration = Duration::from_millis(400);
/// How long the proof may take in all.
const PROVE_TIME: Duration = Duration::from_millis(600);

/// Why a member gave no answer.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("its address is not known")]
    NoAddress,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it answered {status}: {body}")]
    Status { status: u16, body: String },
    #[error("its answer cannot be read")]
    Answer(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Asks members.
#[derive(Clone)]
pub(crate) struct Peers {
    context: Arc<Context>,
    client: HttpClient,
    /// A candidate is being asked to make itself ready: the question is not asked twice at once.
    preparing: Arc<AtomicBool>,
}

impl Peers {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let plain = HttpClient::new();
        let local = Arc::clone(&context.config().local);
        let client = local.peer_credentials.as_ref().and_then(|credentials| {
            plain.clone().with_basic_auth(&credentials.username, credentials.password.reveal())
        });
        Self { context, client: client.unwrap_or(plain), preparing: Arc::default() }
    }

    /// Asks where a member stands.
    pub(crate) fn ask_position(&self, member: MemberName) {
        let peers = self.clone();
        self.context.services.spawn(async move {
            let asked = clock::now();
            let answer = peers.position(&member).await;
            peers.report_position(member, asked, answer);
        });
    }

    /// Asks the candidate to make itself ready, and then where it stands.
    pub(crate) fn ask_prepare(&self, candidate: MemberName, epoch: Epoch) {
        if self.preparing.swap(true, Ordering::SeqCst) {
            return;
        }
        let peers = self.clone();
        self.context.services.spawn(async move {
            let request = PrepareRequest {
                scope: peers.scope(),
                candidate: candidate.to_string(),
                holder: peers.context.me.to_string(),
                epoch,
            };
            let reply: Result<PrepareReply, PeerError> =
                peers.post(&candidate, PATH_PREPARE, &request, PREPARE_TIME).await;
            let asked = clock::now();
            let answer = match reply {
                Ok(PrepareReply { accepted: true, .. }) => peers.position(&candidate).await,
                Ok(PrepareReply { reason, .. }) => Err(PeerError::Refused(reason.unwrap_or_default())),
                Err(error) => Err(error),
            };
            peers.preparing.store(false, Ordering::SeqCst);
            peers.report_position(candidate, asked, answer);
        });
    }

    /// Asks the candidate whether it holds the record.
    pub(crate) fn ask_proof(&self, candidate: MemberName, checkpoint: ShutdownCheckpoint, epoch: Epoch) {
        let peers = self.clone();
        self.context.services.spawn(async move {
            let request = ProveRequest {
                scope: peers.scope(),
                candidate: candidate.to_string(),
                epoch,
                checkpoint,
                wait_ms: u64::try_from(PROVE_WAIT.as_millis()).unwrap_or(u64::MAX),
            };
            let proof: Result<Proof, PeerError> = peers.post(&candidate, PATH_PROVE, &request, PROVE_TIME).await;
            match proof {
                // An answer of another member, or about another record, proves nothing.
                Ok(proof) if proof.member == candidate.as_str() && proof.checkpoint == checkpoint => {
                    if !proof.holds && proof.received < checkpoint.end {
                        // What is still on its way is no proof of anything: the holder's own patience decides.
                        tracing::info!(%candidate, received = %proof.received, "the candidate does not hold the record yet");
                        return;
                    }
                    if let Some(reason) = &proof.reason {
                        tracing::info!(%candidate, reason, "the candidate's answer");
                    }
                    let update = Box::new(PeerUpdate::Proof { checkpoint, holds: proof.holds });
                    peers.context.wake(Event::PeerAnswered { member: candidate, update });
                }
                Ok(_) => tracing::warn!(%candidate, "the candidate answered another question"),
                Err(error) => tracing::info!(%candidate, error = %chain(&error), "the candidate gave no proof"),
            }
        });
    }

    /// This member.
    pub(crate) fn me(&self) -> &MemberName {
        &self.context.me
    }

    fn scope(&self) -> String {
        self.context.config().local.scope.clone()
    }

    /// Asks a host, by the address of its REST API, what it knows of itself, and which members it knows.
    pub(crate) async fn ask_host(&self, member: &MemberName, api: &str) -> Option<(HostFacts, Members)> {
        let position = self.position_at(member, format!("{api}{PATH_POSITION}")).await;
        let position = position
            .inspect_err(|error| tracing::debug!(%member, error = %chain(error), "a member gave no answer"))
            .ok()?;
        let facts = HostFacts {
            system_id: position.system_id,
            timeline: position.host.timeline,
            promised: position.epoch_seen.unwrap_or_default(),
            primary_may_run: position.host.primary_may_run,
            lease_left: Duration::from_millis(position.host.lease_left_ms),
        };
        Some((facts, position.host.members))
    }

    async fn position(&self, member: &MemberName) -> Result<Position, PeerError> {
        self.position_at(member, self.url(member, PATH_POSITION)?).await
    }

    async fn position_at(&self, member: &MemberName, url: String) -> Result<Position, PeerError> {
        let response = self.client.get(&url, POSITION_TIME).await?;
        let position: Position = parse(response.status.as_u16(), &response.body)?;
        if position.member != member.as_str() || position.scope != self.scope() {
            return Err(PeerError::Refused(format!("{} of {} answers there", position.member, position.scope)));
        }
        Ok(position)
    }

    fn report_position(&self, member: MemberName, asked: BootTime, answer: Result<Position, PeerError>) {
        match answer {
            Ok(position) => {
                let update = Box::new(PeerUpdate::Position(answer_of(position, asked)));
                self.context.wake(Event::PeerAnswered { member, update });
            }
            Err(error) => tracing::debug!(%member, error = %chain(&error), "a member gave no answer"),
        }
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        member: &MemberName,
        path: &str,
        request: &Q,
        within: Duration,
    ) -> Result<A, PeerError> {
        let url = self.url(member, path)?;
        let body = serde_json::to_vec(request).map_err(PeerError::Answer)?;
        let response = self.client.post(&url, body, within).await?;
        parse(response.status.as_u16(), &response.body)
    }

    fn url(&self, member: &MemberName, path: &str) -> Result<String, PeerError> {
        let record = keys::record(&self.context.view.keys(), member).ok_or(PeerError::NoAddress)?;
        Ok(format!("{}{path}", record.api_base().ok_or(PeerError::NoAddress)?))
    }
}

fn parse<A: DeserializeOwned>(status: u16, body: &[u8]) -> Result<A, PeerError> {
    if status != 200 {
        let body = String::from_utf8_lossy(body).chars().take(200).collect();
        return Err(PeerError::Status { status, body });
    }
    serde_json::from_slice(body).map_err(PeerError::Answer)
}

fn answer_of(position: Position, asked: BootTime) -> PeerAnswer {
    PeerAnswer {
        asked,
        promised: position.epoch_seen.unwrap_or_default(),
        timeline_given: position.timeline_seen,
        system_id: position.system_id,
        primary: position.in_recovery == Some(false),
        history: position.history,
        position: position.received,
        unfit: position.unfit,
        priority: position.priority,
        checkpointed: position.checkpointed,
        prepared: position.prepared,
        proof: None,
    }
}
