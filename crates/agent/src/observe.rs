//! Looking at the data directory and the server of this host.
//!
//! Every look gives a whole answer: what could not be found out is a value of its own (`Silent`, `Unreadable`), never a guess from
//! before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::Observation;
use pgbaton_core::observation::{
    Answer, ControlState, Database, Directory, Guard, Local, PrimaryStatus, Server, StandbyStatus, Work,
};
use pgbaton_guard::client::ClientError;
use pgbaton_guard::wire::Status;
use pgbaton_postgres::{
    ControlFile, DataDirState, DatabaseState, LocalClient, Operation, Readiness, Sample, SampledRole, ServerSpec,
    SqlError, SqlTimeouts, Wal, can_rewind, inspect, read_history, shutdown_checkpoint,
};
use pgbaton_types::{BootTime, Lsn, MemberName, TimelineHistory, TimelineId, chain};

use crate::clock;
use crate::context::Context;
use crate::unguarded;

/// How long the loop waits for the server's answer: an idle server answers within a millisecond, and whatever takes longer than this is
/// reported as silence, with its age.
const SQL_TIME: Duration = Duration::from_millis(700);

/// Clock ticks of `/proc/<pid>/stat` in a second (`USER_HZ`), the same on all supported architectures.
const TICKS_PER_SECOND: u64 = 100;

/// What one look gave.
pub(crate) struct Look {
    /// For the core.
    pub(crate) local: Local,
    /// For the core.
    pub(crate) guard: Guard,
    /// What the guard said.
    pub(crate) status: Option<Status>,
    /// What the server said.
    pub(crate) sample: Option<Arc<Sample>>,
    /// A postmaster that the guard did not start.
    pub(crate) stranger: Option<i32>,
}

/// How the database had been left at the first look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    NotYet,
    Nothing,
    Database(ControlState),
}

/// Looks, and keeps what makes looking cheap.
pub(crate) struct Observer {
    client: LocalClient,
    spec: Arc<ServerSpec>,
    silent_since: Option<BootTime>,
    /// Why the server did not let the agent in when it was last asked.
    refused: Option<String>,
    stopped_since: Option<BootTime>,
    dying_since: Option<BootTime>,
    found: Found,
    histories: BTreeMap<TimelineId, TimelineHistory>,
    pending: Vec<String>,
    /// The start of the postmaster that was asked for them last, as it writes it.
    pending_of: String,
    stranger: Option<(i32, BootTime)>,
}

impl Observer {
    pub(crate) fn new(spec: Arc<ServerSpec>) -> Self {
        Self {
            client: client(&spec),
            spec,
            silent_since: None,
            refused: None,
            stopped_since: None,
            dying_since: None,
            found: Found::NotYet,
            histories: BTreeMap::new(),
            pending: Vec::new(),
            pending_of: String::new(),
            stranger: None,
        }
    }

    /// Looks at everything on this host.
    pub(crate) async fn look(&mut self, context: &Context) -> Look {
        let spec = context.spec();
        if spec != self.spec {
            self.client = client(&spec);
            self.spec = spec;
        }
        let status = match context.guard.status() {
            Ok(status) => Some(status),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the guard does not say how things stand");
                if matches!(error, ClientError::NoAnswer(_))
                    && let Err(error) = context.guard.kill_guard()
                {
                    tracing::error!(error = %chain(&error), "a guard that does not answer could not be killed");
                }
                None
            }
        };
        let guard = Guard { alive: status.is_some(), armed: status.is_some_and(|status| status.deadline.is_some()) };
        let (server, sample) = self.server(context, status.as_ref()).await;
        let directory = self.directory(context, &server);
        let state = match &directory {
            Directory::Database(database) => Some(database.state),
            _ => None,
        };
        if self.found == Found::NotYet {
            self.found = state.map_or(Found::Nothing, Found::Database);
        }
        let found = match self.found {
            Found::Database(state) => Some(state),
            Found::NotYet | Found::Nothing => None,
        };
        let stranger = self.stranger.map(|(pid, _)| pid);
        Look { local: Local { directory, found, server }, guard, status, sample, stranger }
    }

    /// The highest timeline number of which there is a history file here.
    pub(crate) fn highest_timeline(&self) -> Option<TimelineId> {
        history_files(&self.spec.data_dir.join("pg_wal")).into_iter().max()
    }

    /// Settings that wait for a restart, as last asked.
    pub(crate) fn pending_restart(&self) -> &[String] {
        &self.pending
    }

    /// Asks which settings wait for a restart, after a reload at this time; says whether the server had reloaded by then.
    pub(crate) async fn ask_after_reload(&mut self, seconds: f64) -> bool {
        let reloaded = self.client.has_loaded_since(seconds).await.unwrap_or(false);
        if reloaded {
            self.ask_pending_restart().await;
        }
        reloaded
    }

    async fn ask_pending_restart(&mut self) {
        match self.client.pending_restart().await {
            Ok(pending) => self.pending = pending,
            Err(error) => tracing::debug!(error = %chain(&error), "the settings that wait for a restart are not known"),
        }
    }

    /// Has a slot for each of these members.
    pub(crate) async fn ensure_slots(&mut self, members: &[MemberName]) -> Result<Vec<String>, SqlError> {
        self.client.ensure_slots(members).await
    }

    /// Drops the members' slots on a standby: left from a reign, they would keep WAL for ever.
    pub(crate) async fn drop_member_slots(&mut self, look: &Look, seen: &Observation, retained: &[String]) {
        let Some(sample) = &look.sample else { return };
        let mut members: Vec<String> = seen.store.cluster.members.keys().map(MemberName::slot_name).collect();
        members.extend(retained.iter().cloned());
        for slot in sample.slots.iter().filter(|slot| slot.physical && !slot.active && members.contains(&slot.name)) {
            self.drop_slot(&slot.name, "an earlier reign left it").await;
        }
    }

    /// Drops a slot; says whether it is gone.
    pub(crate) async fn drop_slot(&mut self, slot: &str, why: &str) -> bool {
        match self.client.drop_slot(slot).await {
            Ok(_) => tracing::info!(slot, why, "dropped a slot"),
            Err(error) => {
                tracing::warn!(slot, error = %chain(&error), "a slot was not dropped");
                return false;
            }
        }
        true
    }

    async fn server(&mut self, context: &Context, status: Option<&Status>) -> (Server, Option<Arc<Sample>>) {
        let now = clock::now();
        self.stranger = unguarded::find(&self.spec.data_dir, status.and_then(|status| status.postmaster))
            .map(|pid| (pid, self.stranger.filter(|(old, _)| *old == pid).map_or(now, |(_, since)| since)));
        let running = match status {
            Some(Status { postmaster: Some(postmaster), killing: false, .. }) => {
                let promoting = context.kept().promoting == Some((*postmaster).into());
                Some((true, promoting, BootTime(postmaster.start_ticks * (1_000_000_000 / TICKS_PER_SECOND))))
            }
            _ => self.stranger.map(|(_, since)| (false, false, since)),
        };
        let Some((guarded, promoting, since)) = running else {
            self.silent_since = None;
            self.client.disconnect();
            // A guard that does not answer says nothing about what runs: then it is not known to be stopped.
            let left = status.is_none_or(|status| status.tree_alive);
            let (kept, other) = if left {
                (&mut self.dying_since, &mut self.stopped_since)
            } else {
                (&mut self.stopped_since, &mut self.dying_since)
            };
            *other = None;
            let since = *kept.get_or_insert(now);
            return (if left { Server::Dying { since } } else { Server::Stopped { since } }, None);
        };
        (self.stopped_since, self.dying_since) = (None, None);
        let (answer, sample) = self.ask(context, now).await;
        let promoting = promoting && !promoted(context, &answer);
        (Server::Running { guarded, since: since.min(now), promoting, answer }, sample)
    }

    async fn ask(&mut self, context: &Context, now: BootTime) -> (Answer, Option<Arc<Sample>>) {
        if !accepts_connections(&self.spec.data_dir) {
            self.silent_since = None;
            return (Answer::Starting, None);
        }
        let mut sampled = self.client.sample().await;
        if sampled.as_ref().is_err_and(|error| matches!(error, SqlError::Query { .. })) {
            // Only the kept connection may have ended.
            sampled = self.client.sample().await;
        }
        if let Ok(sample) = &sampled
            && sample.postmaster_started != self.pending_of
        {
            // A restart took effect, or this agent has just come.
            self.pending_of.clone_from(&sample.postmaster_started);
            self.pending.clear();
            self.ask_pending_restart().await;
        }
        match sampled {
            Ok(sample) => match self.answer(context, &sample) {
                Ok(answer) => {
                    (self.silent_since, self.refused) = (None, None);
                    (answer, Some(Arc::new(sample)))
                }
                Err(why) => {
                    tracing::debug!(why, "the server's answer cannot be used yet");
                    (Answer::Silent { since: *self.silent_since.get_or_insert(now) }, None)
                }
            },
            Err(error) if matches!(error.readiness(), Readiness::Starting | Readiness::Absent) => {
                // Nobody listens yet, or not any more: the postmaster is there, as the guard says.
                self.silent_since = None;
                (Answer::Starting, None)
            }
            Err(error) => {
                let why = chain(&error);
                tracing::debug!(error = why, "the server does not answer");
                // Once for each reason: it stays until somebody corrects it.
                if error.readiness() == Readiness::Refused && self.refused.as_ref() != Some(&why) {
                    let advice = "check postgresql.authentication.superuser and pg_hba";
                    tracing::warn!(why, "the server does not let the agent in: {advice}");
                    self.refused = Some(why);
                }
                (Answer::Silent { since: *self.silent_since.get_or_insert(now) }, None)
            }
        }
    }

    fn answer(&mut self, context: &Context, sample: &Sample) -> Result<Answer, String> {
        let history = self.history(self.timeline(sample)?)?;
        context.set_timeline(history.timeline());
        Ok(match &sample.role {
            SampledRole::Primary { timeline, flushed, .. } => {
                let control = ControlFile::read(&self.spec.data_dir).map_err(|error| chain(&error))?;
                let checkpointed = control.checkpoint_timeline == *timeline;
                Answer::Primary(PrimaryStatus { history, position: *flushed, checkpointed })
            }
            SampledRole::Standby { received, replayed, replay_paused, receiver, .. } => {
                let following = context.following();
                let address = following.address.or_else(|| context.server_address(following.upstream.as_ref()?));
                let streaming =
                    receiver.as_ref().zip(address).is_some_and(|(receiver, upstream)| receiver.streams_from(&upstream));
                Answer::Standby(StandbyStatus {
                    history,
                    received: sample.position(),
                    reported_received: received.unwrap_or(Lsn::INVALID),
                    replayed: *replayed,
                    replay_paused: *replay_paused,
                    upstream: following.upstream,
                    streaming,
                })
            }
        })
    }

    /// The timeline that the server is on. A standby without a receiver tells only that of its last restartpoint; then the newest one counts of
    /// which it has the segment that its position is in. Recycled segments lie behind that.
    fn timeline(&self, sample: &Sample) -> Result<TimelineId, String> {
        let told = sample.timeline();
        if !sample.in_recovery() || sample.receiver().is_some_and(|receiver| receiver.timeline.is_some()) {
            return Ok(told);
        }
        let control = ControlFile::read(&self.spec.data_dir).map_err(|error| chain(&error))?;
        let wal = Wal::of(&self.spec.data_dir, &control);
        let last_byte = Lsn(sample.position().0.saturating_sub(1));
        let received = |timeline: &TimelineId| wal.dir().join(wal.segment_name(*timeline, last_byte)).exists();
        let newer = history_files(wal.dir()).into_iter().filter(|timeline| *timeline > told);
        Ok(newer.filter(received).max().unwrap_or(told))
    }

    /// A timeline's history. The file of a timeline never changes once the timeline is written.
    fn history(&mut self, timeline: TimelineId) -> Result<TimelineHistory, String> {
        if let Some(history) = self.histories.get(&timeline) {
            return Ok(history.clone());
        }
        let history = read_history(&self.spec.data_dir, timeline).map_err(|error| chain(&error))?;
        self.histories.insert(timeline, history.clone());
        Ok(history)
    }

    fn directory(&mut self, context: &Context, server: &Server) -> Directory {
        let data_dir = self.spec.data_dir.clone();
        match inspect(&data_dir) {
            Err(error) => Directory::Unreadable { error: chain(&error) },
            Ok(DataDirState::Missing | DataDirState::Empty) => {
                self.histories.clear();
                Directory::Empty
            }
            Ok(DataDirState::NotADatabase { entries }) => Directory::Foreign { found: entries.join(", ") },
            Ok(DataDirState::Incomplete { operation }) => Directory::Incomplete { work: work(operation) },
            Ok(DataDirState::Database { .. }) if context.kept().bootstrapping => {
                Directory::Incomplete { work: Work::Bootstrap }
            }
            Ok(DataDirState::Database { control, .. }) => self.database(&data_dir, &control, server),
        }
    }

    fn database(&mut self, data_dir: &Path, control: &ControlFile, server: &Server) -> Directory {
        let stopped = matches!(server, Server::Stopped { .. });
        if stopped {
            // A rewind or a copy may have brought another history.
            self.histories.clear();
        }
        let timeline = control.checkpoint_timeline.max(control.min_recovery_timeline.unwrap_or(TimelineId(0)));
        let history = match self.history(timeline) {
            Ok(history) => history,
            // A rewind or a restore may have left the file to be fetched: the number is what is certain.
            Err(why) if stopped => {
                tracing::debug!(why, "the history of the data's timeline is not known");
                TimelineHistory::root(timeline)
            }
            Err(error) => return Directory::Unreadable { error },
        };
        let end = match control.state {
            DatabaseState::ShutDown => shutdown_checkpoint(data_dir).ok().map(|checkpoint| checkpoint.end),
            DatabaseState::ShutDownInRecovery => Some(control.min_recovery.max(control.checkpoint)),
            _ => None,
        };
        // A base backup has its source's control file, until its recovery has begun.
        let copied = stopped && data_dir.join("backup_label").exists();
        Directory::Database(Database {
            system_id: control.system_id,
            state: if copied { ControlState::InRecovery } else { state(control.state) },
            history,
            end,
            rewindable: can_rewind(control),
        })
    }
}

/// Whether the server that was told to become a primary is one; then that is noted.
fn promoted(context: &Context, answer: &Answer) -> bool {
    if !matches!(answer, Answer::Primary(_)) {
        return false;
    }
    if let Err(error) = context.keep(|kept| kept.promoting = None) {
        tracing::warn!(error = %chain(&error), "that the promotion is complete was not noted");
    }
    true
}

/// The timelines that have a history file.
fn history_files(wal: &Path) -> Vec<TimelineId> {
    let Ok(entries) = std::fs::read_dir(wal) else { return Vec::new() };
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        u32::from_str_radix(name.to_str()?.strip_suffix(".history")?, 16).ok().map(TimelineId)
    };
    entries.filter_map(Result::ok).filter_map(number).collect()
}

/// Whether the postmaster says, in the last line of its pid file, that it lets clients in. Trying it out would fill the server's log.
pub(crate) fn accepts_connections(data_dir: &Path) -> bool {
    /// The line with the status (`LOCK_FILE_LINE_PM_STATUS` in PostgreSQL's `pidfile.h`), counted from zero.
    const STATUS_LINE: usize = 7;
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(STATUS_LINE).is_some_and(|status| status.trim() == "ready")
}

/// How long the agent's own connection may take.
pub(crate) fn client(spec: &ServerSpec) -> LocalClient {
    LocalClient::new(spec, SqlTimeouts { connect: SQL_TIME, query: SQL_TIME })
}

fn work(operation: Operation) -> Work {
    match operation {
        Operation::Initdb => Work::Bootstrap,
        Operation::BaseBackup => Work::Clone,
        Operation::Rewind => Work::Rewind,
    }
}

pub(crate) fn state(state: DatabaseState) -> ControlState {
    match state {
        DatabaseState::ShutDown => ControlState::ShutDown,
        DatabaseState::ShutDownInRecovery => ControlState::ShutDownInRecovery,
        // A primary that died while it wrote its shutdown checkpoint crashed.
        DatabaseState::InProduction | DatabaseState::ShuttingDown => ControlState::InProduction,
        DatabaseState::StartingUp | DatabaseState::InCrashRecovery | DatabaseState::InArchiveRecovery => {
            ControlState::InRecovery
        }
    }
}
