use std::collections::BTreeSet;

use pgbaton_core::observation::{
    Answer, ControlState, Database, Directory, PrimaryStatus, Server, StandbyStatus, Work,
};
use pgbaton_types::{BootTime, Epoch, Lsn, MemberName, SystemId, TimelineHistory, TimelineId};

use crate::layout::SWITCH_REASON;
use crate::time::{HostClock, Time};
use crate::wal::{SEGMENT_BYTES, Wal};

/// Size of the records that PostgreSQL writes by itself (checkpoints, end of recovery), in bytes.
pub(crate) const OWN_RECORD_BYTES: u64 = 120;

/// The data directory and the server processes of one host.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    /// Work that was begun on the directory and not ended.
    pub(crate) incomplete: Option<Work>,
    /// The database; none: the directory is empty, or what is in it is of no use.
    pub(crate) data: Option<Data>,
    /// The processes.
    pub(crate) process: Process,
    /// Counts the lives of the server, so that what was meant for an earlier one is dropped.
    pub(crate) life: u64,
}

/// What is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    /// The identity.
    pub(crate) system_id: SystemId,
    /// All WAL that is flushed.
    pub(crate) wal: Wal,
    /// The control file's state.
    pub(crate) state: ControlState,
    /// The newest timeline that the server knows it is on.
    pub(crate) history: TimelineHistory,
    /// What the control file says: behind until the first checkpoint after a promotion.
    pub(crate) control_history: TimelineHistory,
    /// `pg_rewind` can work on it.
    pub(crate) rewindable: bool,
    /// Timeline numbers for which a history file is in `pg_wal`.
    pub(crate) known_timelines: BTreeSet<TimelineId>,
    /// `standby.signal` is there.
    pub(crate) standby_signal: bool,
}

/// The server processes.
#[derive(Debug, Clone)]
pub(crate) enum Process {
    /// None.
    Stopped {
        /// Since when.
        since: Time,
    },
    /// The postmaster is gone; others are left.
    Dying {
        /// Since when.
        since: Time,
        /// One of them goes on committing.
        committing: bool,
        /// The reign in which the server was a primary.
        reign: Option<Epoch>,
        /// The guard had started it.
        guarded: bool,
    },
    /// A postmaster is there.
    Running(Running),
}

/// A running server.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// The guard started it.
    pub(crate) guarded: bool,
    /// Since when.
    pub(crate) since: Time,
    /// What it is doing.
    pub(crate) role: Role,
    /// The reign in which it was started or promoted as a primary; none for a standby or when somebody else did it.
    pub(crate) reign: Option<Epoch>,
    /// An operator promoted it himself, to a timeline whose number nobody reserved.
    pub(crate) by_hand: bool,
    /// An agent has told it to become a primary, and noted that durably.
    pub(crate) promoting: bool,
    /// Whom its configuration names.
    pub(crate) upstream: Option<usize>,
    /// The WAL receiver streams.
    pub(crate) streaming: bool,
    /// It has streamed in this life: before, "last received" is the start of a segment.
    pub(crate) streamed: bool,
    /// Replay is paused.
    pub(crate) replay_paused: bool,
    /// Number of records that were replayed.
    pub(crate) replayed: usize,
    /// A checkpoint has completed since it was promoted.
    pub(crate) checkpointed: bool,
}

/// What a running server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It starts.
    Starting,
    /// It is a standby.
    Standby,
    /// It is being promoted: still answers as a standby.
    Promoting,
    /// It accepts writes.
    Primary,
    /// It shuts down: nobody can connect, WAL is still written.
    Stopping,
    /// The control file says "shut down"; the postmaster and its senders are still there.
    ShutDown,
}

impl Postgres {
    /// A host without data.
    pub(crate) fn empty() -> Self {
        Self { incomplete: None, data: None, process: Process::Stopped { since: 0 }, life: 0 }
    }

    /// The running server.
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The running server, to be changed.
    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.process {
            Process::Running(running) => Some(running),
            _ => None,
        }
    }

    /// What it is doing, if it runs.
    pub(crate) fn role(&self) -> Option<Role> {
        self.running().map(|running| running.role)
    }

    /// Any process is left.
    pub(crate) fn tree_alive(&self) -> bool {
        !matches!(self.process, Process::Stopped { .. })
    }

    /// A client could get a commit acknowledged, if the host is not frozen.
    pub(crate) fn accepts_writes(&self) -> bool {
        match &self.process {
            Process::Running(running) => running.role == Role::Primary,
            Process::Dying { committing, .. } => *committing,
            Process::Stopped { .. } => false,
        }
    }

    /// The reign of the primary that is running or dying here.
    pub(crate) fn reign(&self) -> Option<Epoch> {
        match &self.process {
            Process::Running(running) => running.reign,
            Process::Dying { reign, .. } => *reign,
            Process::Stopped { .. } => None,
        }
    }

    /// The guard started the processes that are there.
    pub(crate) fn guarded(&self) -> bool {
        match &self.process {
            Process::Running(running) => running.guarded,
            Process::Dying { guarded, .. } => *guarded,
            Process::Stopped { .. } => true,
        }
    }

    /// All processes are gone at once, as after a kill or a loss of power.
    pub(crate) fn killed(&mut self, now: Time) {
        if self.tree_alive() {
            self.process = Process::Stopped { since: now };
            self.life += 1;
        }
    }

    /// A new postmaster. `signal`: whether it is started with `standby.signal`.
    pub(crate) fn started(&mut self, now: Time, guarded: bool, signal: bool, upstream: Option<usize>) {
        assert!(!self.tree_alive(), "a second postmaster in one data directory");
        self.life += 1;
        let Some(data) = &mut self.data else { return };
        data.standby_signal = signal;
        let replayed = data.wal.len();
        self.process = Process::Running(Running {
            guarded,
            since: now,
            role: Role::Starting,
            reign: None,
            by_hand: false,
            promoting: false,
            upstream,
            streaming: false,
            streamed: false,
            replay_paused: false,
            replayed,
            checkpointed: true,
        });
    }

    /// The recovery that a start begins with has ended.
    pub(crate) fn recovered(&mut self) {
        let Some(data) = &mut self.data else { return };
        let standby = data.standby_signal;
        data.state = if standby { ControlState::InRecovery } else { ControlState::InProduction };
        if let Process::Running(running) = &mut self.process {
            running.role = if standby { Role::Standby } else { Role::Primary };
            running.replayed = data.wal.len();
        }
    }

    /// The timeline that a promotion would make: the first number without a history file.
    pub(crate) fn next_timeline(&self) -> Option<TimelineId> {
        let data = self.data.as_ref()?;
        let mut next = data.history.timeline().next();
        while data.known_timelines.contains(&next) {
            next = next.next();
        }
        Some(next)
    }

    /// The promotion has come to its end: a new timeline with its first record.
    pub(crate) fn promoted(&mut self, id: u64) -> Option<TimelineId> {
        let next = self.next_timeline()?;
        let data = self.data.as_mut()?;
        data.history = data.history.fork(next, data.wal.end(), SWITCH_REASON);
        data.known_timelines.insert(next);
        data.wal.append(next, OWN_RECORD_BYTES, id);
        data.state = ControlState::InProduction;
        data.standby_signal = false;
        if let Process::Running(running) = &mut self.process {
            running.role = Role::Primary;
            running.promoting = false;
            running.upstream = None;
            running.streaming = false;
            running.checkpointed = false;
        }
        Some(next)
    }

    /// The first checkpoint after a promotion.
    pub(crate) fn checkpointed(&mut self) {
        if let Some(data) = &mut self.data {
            data.control_history = data.history.clone();
        }
        if let Process::Running(running) = &mut self.process {
            running.checkpointed = true;
        }
    }

    /// The control file says "shut down".
    pub(crate) fn shut_down(&mut self, id: u64) {
        let Some(data) = &mut self.data else { return };
        let Process::Running(running) = &mut self.process else { return };
        if data.standby_signal {
            data.state = ControlState::ShutDownInRecovery;
        } else {
            let timeline = data.history.timeline();
            data.wal.append(timeline, OWN_RECORD_BYTES, id);
            data.state = ControlState::ShutDown;
        }
        data.control_history = data.history.clone();
        running.role = Role::ShutDown;
        running.streaming = false;
    }

    /// The end of the WAL that is flushed here.
    pub(crate) fn end(&self) -> Lsn {
        self.data.as_ref().map_or(Lsn::INVALID, |data| data.wal.end())
    }

    /// What an agent sees of the directory.
    pub(crate) fn see_directory(&self) -> Directory {
        if let Some(work) = self.incomplete {
            return Directory::Incomplete { work };
        }
        let Some(data) = &self.data else { return Directory::Empty };
        let clean = matches!(data.state, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        Directory::Database(Database {
            system_id: data.system_id,
            state: data.state,
            history: data.control_history.clone(),
            end: clean.then(|| data.wal.end()),
            rewindable: data.rewindable,
        })
    }

    /// What an agent sees of the processes. `silent`: since when the server does not answer.
    pub(crate) fn see_server(&self, clock: HostClock, silent: Option<BootTime>, names: &[MemberName]) -> Server {
        let running = match &self.process {
            Process::Stopped { since } => return Server::Stopped { since: clock.read(*since) },
            Process::Dying { since, .. } => return Server::Dying { since: clock.read(*since) },
            Process::Running(running) => running,
        };
        let answer = match (silent, running.role) {
            (_, Role::Starting | Role::Stopping | Role::ShutDown) => Answer::Starting,
            (Some(since), _) => Answer::Silent { since: since.max(clock.read(running.since)) },
            (None, Role::Primary) => self.see_primary(running),
            (None, Role::Standby | Role::Promoting) => self.see_standby(running, names),
        };
        Server::Running {
            guarded: running.guarded,
            since: clock.read(running.since),
            promoting: running.promoting,
            answer,
        }
    }

    fn see_primary(&self, running: &Running) -> Answer {
        let Some(data) = &self.data else { return Answer::Starting };
        Answer::Primary(PrimaryStatus {
            history: data.history.clone(),
            position: data.wal.end(),
            checkpointed: running.checkpointed,
        })
    }

    fn see_standby(&self, running: &Running, names: &[MemberName]) -> Answer {
        let Some(data) = &self.data else { return Answer::Starting };
        let received = data.wal.end();
        let segment = Lsn(received.0 / SEGMENT_BYTES * SEGMENT_BYTES);
        let reported_received = if running.streamed { received } else { segment };
        Answer::Standby(StandbyStatus {
            history: data.history.clone(),
            received,
            reported_received,
            replayed: if running.replayed >= data.wal.len() {
                received
            } else {
                data.wal.position_after(running.replayed)
            },
            replay_paused: running.replay_paused,
            upstream: running.upstream.map(|member| names[member].clone()),
            streaming: running.streaming,
        })
    }

    /// Whether this standby can stream from `source`, and how PostgreSQL judges it: by timeline numbers and switch
    /// positions of the upstream's history, and then by the records themselves.
    pub(crate) fn can_stream_from(&self, source: &Self) -> bool {
        let (Some(data), Some(other)) = (&self.data, &source.data) else { return false };
        if data.system_id != other.system_id || source.incomplete.is_some_and(|work| work != Work::Bootstrap) {
            return false;
        }
        let Some(end) = other.history.end_of(data.history.timeline()) else { return false };
        let reached = data.wal.end();
        end.is_none_or(|switch| reached <= switch) && other.wal.holds_all_of(&data.wal)
    }

    /// Takes over what the upstream has. The new end may lie on a newer timeline.
    pub(crate) fn receive_from(&mut self, source: &Self) {
        let (Some(data), Some(other)) = (&mut self.data, &source.data) else { return };
        data.wal.extend_from(&other.wal);
        if data.wal.timeline() == other.history.timeline() {
            data.history = other.history.clone();
            data.known_timelines.extend(other.known_timelines.iter().copied());
        }
        if let Process::Running(running) = &mut self.process {
            running.streamed = true;
            if !running.replay_paused {
                running.replayed = data.wal.len();
            }
        }
    }
}
