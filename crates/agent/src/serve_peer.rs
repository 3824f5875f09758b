//! Answering other members. Where this member stands is looked at anew for each question.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_api::{PeerHost, Position, PrepareReply, PrepareRequest, Proof, ProveRequest};
use pgbaton_core::observation::{Answer, Directory, Server, StandbyStatus};
use pgbaton_postgres::{LocalClient, Possession, ServerSignal, ServerSpec, SqlError, holds, write_config};
use pgbaton_store::BoxFuture;
use pgbaton_types::{Epoch, Lsn, chain};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::clock;
use crate::context::{Context, Prepared};
use crate::event::{Event, Looked};
use crate::observe;
use crate::operations::OperationError;
use crate::shared::AnswerPeers;

/// A candidate further behind in replay than this, in bytes, is not ready: it would have to be replayed while nobody can write.
const REPLAY_LAG_MAX: u64 = 1 << 20;
/// How often the received position is looked at while the last record is awaited. Each millisecond is one without a primary.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);
/// How long replay may stand still before sessions that may hold it are ended.
const STILL_TIME: Duration = Duration::from_millis(100);
/// The longest wait for a record, whatever the question says.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// From this version on the server takes another `restore_command` by a reload.
const VERSION_RELOADS_RESTORE: u32 = 140_000;

/// Answers for this member.
pub(crate) struct PeerService {
    context: Arc<Context>,
    /// The connection that a preparation made, kept for the proof: while nobody can write, none is made anew.
    kept: Mutex<Option<Connected>>,
}

/// A connection with the configuration that it was made by.
struct Connected {
    spec: Arc<ServerSpec>,
    client: LocalClient,
}

impl PeerService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, kept: Mutex::new(None) }
    }

    /// The kept connection; another one while somebody uses it, or when the configuration has changed.
    fn connected(&self) -> Connected {
        let spec = self.context.spec();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|kept| kept.spec == spec).unwrap_or_else(|| Connected { client: observe::client(&spec), spec })
    }

    fn keep(&self, connected: Connected) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
    }

    async fn look(&self) -> Option<Looked> {
        let (reply, answer) = oneshot::channel();
        self.context.events.send(Event::AskedPosition { reply }).await.ok()?;
        answer.await.ok()
    }

    async fn make_position(&self) -> Option<Position> {
        let Looked { observation: seen, unfit, host } = self.look().await?;
        let config = self.context.config();
        let mut position = Position {
            member: self.context.me.to_string(),
            scope: config.local.scope.clone(),
            system_id: match &seen.local.directory {
                Directory::Database(database) => Some(database.system_id),
                _ => None,
            },
            in_recovery: None,
            history: None,
            received: Lsn::INVALID,
            replayed: Lsn::INVALID,
            receiver: None,
            epoch_seen: Some(seen.memory.promised),
            timeline_seen: seen.memory.timeline_given,
            unfit,
            priority: config.settings.failover_priority,
            checkpointed: false,
            prepared: None,
            host: PeerHost {
                primary_may_run: host.primary_may_run,
                lease_left_ms: u64::try_from(host.lease_left.as_millis()).unwrap_or(u64::MAX),
                timeline: host.timeline,
                members: self.context.kept().members,
            },
        };
        match &seen.local.server {
            Server::Running { answer: Answer::Primary(primary), .. } => {
                position.in_recovery = Some(false);
                position.history = Some(primary.history.clone());
                position.received = primary.position;
                position.checkpointed = primary.checkpointed;
            }
            Server::Running { answer: Answer::Standby(standby), .. } => {
                position.in_recovery = Some(true);
                position.history = Some(standby.history.clone());
                position.received = standby.received;
                position.replayed = standby.replayed;
                position.receiver = standby.streaming.then(|| "streaming".to_owned());
                position.prepared = self.prepared(standby);
            }
            _ => {}
        }
        Some(position)
    }

    /// The epoch for whose handover this standby is ready at this moment.
    fn prepared(&self, standby: &StandbyStatus) -> Option<Epoch> {
        let prepared = self.context.following().prepared?;
        let close = standby.received.bytes_ahead_of(standby.replayed) <= REPLAY_LAG_MAX;
        (standby.streaming && !standby.replay_paused && close).then_some(prepared.epoch)
    }

    async fn make_ready(&self, request: &PrepareRequest) -> Result<(), String> {
        self.check_meant(&request.scope, &request.candidate)?;
        let leads = self.context.view.keys().get(crate::keys::LEADER).map(crate::keys::text);
        if leads.as_deref() != Some(request.holder.as_str()) {
            return Err(format!("{} does not lead as this member sees it", request.holder));
        }
        let mut connected = self.connected();
        let result = self.set_ready(&mut connected.client, request.epoch).await.map_err(|error| chain(&error));
        self.keep(connected);
        result
    }

    async fn set_ready(&self, client: &mut LocalClient, epoch: Epoch) -> Result<(), OperationError> {
        let sample = client.sample().await?;
        let mut overrides = BTreeMap::from([("max_standby_streaming_delay".to_owned(), "0".to_owned())]);
        if sample.version >= VERSION_RELOADS_RESTORE {
            // Possession of everything is going to be proven: an archive could only cost time.
            overrides.insert("restore_command".to_owned(), String::new());
        }
        self.context.set_prepared(Some(Prepared { epoch, overrides, asked: clock::now() }));
        if write_config(&self.context.spec(), &self.context.recovery())?.changed {
            self.context.signal(ServerSignal::Reload)?;
        }
        client.query("SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery() AND pg_is_wal_replay_paused()").await?;
        Ok(end_what_blocks(client).await?)
    }

    fn check_meant(&self, scope: &str, candidate: &str) -> Result<(), String> {
        let local = Arc::clone(&self.context.config().local);
        if local.scope != scope || self.context.me.as_str() != candidate {
            return Err(format!("this is {} of {}, not {candidate} of {scope}", self.context.me, local.scope));
        }
        Ok(())
    }

    async fn find_record(&self, request: &ProveRequest) -> (Lsn, Result<(), String>) {
        if let Err(reason) = self.check_meant(&request.scope, &request.candidate) {
            return (Lsn::INVALID, Err(reason));
        }
        let mut connected = self.connected();
        let answer = self.await_record(request, &mut connected.client).await;
        self.keep(connected);
        answer
    }

    async fn await_record(&self, request: &ProveRequest, client: &mut LocalClient) -> (Lsn, Result<(), String>) {
        let (spec, begin) = (self.context.spec(), clock::now());
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let mut received = Lsn::INVALID;
        loop {
            let mut last = match client.sample().await {
                Ok(sample) if sample.in_recovery() => {
                    received = sample.position();
                    None
                }
                Ok(_) => return (received, Err("its server is not a standby".to_owned())),
                Err(error) => Some(chain(&error)),
            };
            if received >= request.checkpoint.end {
                match holds(&spec.data_dir, &request.checkpoint, received) {
                    Ok(Possession::Held) => return (received, Ok(())),
                    Ok(Possession::Different { reason }) => return (received, Err(reason)),
                    Ok(Possession::Behind { .. }) => {}
                    Err(error) => last = Some(chain(&error)),
                }
            }
            if clock::now().since(begin) >= wait {
                let short = request.checkpoint.end.bytes_ahead_of(received);
                return (
                    received,
                    Err(last.unwrap_or_else(|| format!("it has received up to {received}, {short} bytes short"))),
                );
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Replay that stands still while there is something to replay waits for a session; that session is ended. The setting above alone does not
/// help one that waits already.
async fn end_what_blocks(client: &mut LocalClient) -> Result<(), SqlError> {
    let before = client.sample().await?;
    sleep(STILL_TIME).await;
    let after = client.sample().await?;
    let replayed = |sample: &pgbaton_postgres::Sample| match sample.role {
        pgbaton_postgres::SampledRole::Standby { replayed, .. } => replayed,
        pgbaton_postgres::SampledRole::Primary { .. } => sample.position(),
    };
    if replayed(&after) == replayed(&before) && replayed(&after) < before.position() {
        client
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()",
            )
            .await?;
        tracing::info!("ended the sessions that held replay, for a handover");
    }
    Ok(())
}

impl AnswerPeers for PeerService {
    fn position(&self) -> BoxFuture<'_, Option<Position>> {
        Box::pin(self.make_position())
    }

    fn prepare(&self, request: PrepareRequest) -> BoxFuture<'_, PrepareReply> {
        Box::pin(async move {
            match self.make_ready(&request).await {
                Ok(()) => PrepareReply { accepted: true, reason: None },
                Err(reason) => PrepareReply { accepted: false, reason: Some(reason) },
            }
        })
    }

    fn prove(&self, request: ProveRequest) -> BoxFuture<'_, Proof> {
        Box::pin(async move {
            let (received, found) = self.find_record(&request).await;
            Proof {
                member: self.context.me.to_string(),
                checkpoint: request.checkpoint,
                holds: found.is_ok(),
                received,
                reason: found.err(),
            }
        })
    }
}
