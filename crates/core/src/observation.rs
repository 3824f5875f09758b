//! What a member knows when it decides. Certainty that was lost is a value with an age, never a missing field.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_types::{
    BootTime, Epoch, Lsn, MemberName, Revision, ShutdownCheckpoint, SystemId, TimelineHistory, TimelineId,
};

use crate::decision::OperationKind;
use crate::memory::Memory;

/// One consistent look at everything that a decision may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Now, on this host's clock. All other times here are on the same clock and not later.
    pub now: BootTime,
    /// Who looks.
    pub me: MemberName,
    /// The data directory and the server on this host.
    pub local: Local,
    /// The cluster as the store shows it.
    pub store: StoreView,
    /// The lease that this member holds, by its last successful renewal. It stays here past its deadline, until it is
    /// released; nothing makes it valid again.
    pub lease: Option<Lease>,
    /// The guard that owns the local server.
    pub guard: Guard,
    /// What other members answered when they were asked last.
    pub peers: BTreeMap<MemberName, PeerAnswer>,
    /// The operation that is under way. There is at most one.
    pub operation: Option<Operation>,
    /// How the operation before it ended; stays until the next one begins.
    pub finished: Option<Finished>,
    /// When the checkpoint was asked for that ended last, well or not.
    pub checkpoint: Option<BootTime>,
    /// What an operator asks of this very member.
    pub orders: Orders,
    /// What the decision before this one wanted to remember.
    pub memory: Memory,
}

/// The data directory and the server on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The data directory.
    pub directory: Directory,
    /// How the database had been left when this agent first looked; none: there was none.
    pub found: Option<ControlState>,
    /// The server processes.
    pub server: Server,
}

/// The state of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// It cannot be read: an unmounted or broken disk, no permission. Never taken for an empty one.
    Unreadable {
        /// What the operating system said.
        error: String,
    },
    /// It does not exist or has nothing in it, and it was read without an error.
    Empty,
    /// Something is in it that is no database.
    Foreign {
        /// What was found.
        found: String,
    },
    /// Work that makes a database was begun here and not ended: it must not be started.
    Incomplete {
        /// The work.
        work: Work,
    },
    /// A database.
    Database(Database),
}

/// Work that leaves a data directory unusable while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A new cluster, until its roles and passwords exist.
    Bootstrap,
    /// A base backup from another member.
    Clone,
    /// A rewind.
    Rewind,
}

/// What a data directory holds, from its control file and its timeline history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The identity that `initdb` gave.
    pub system_id: SystemId,
    /// How the server was left, by the control file.
    pub state: ControlState,
    /// The timeline that the control file names, with its ancestors.
    pub history: TimelineHistory,
    /// Where its WAL ends; unknown after a crash until recovery has run.
    pub end: Option<Lsn>,
    /// Whether `pg_rewind` can work on it: `wal_log_hints` or data checksums.
    pub rewindable: bool,
}

/// How a server was left (`pg_control`, "Database cluster state").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// Cleanly stopped as a primary: the last record is a shutdown checkpoint.
    ShutDown,
    /// Cleanly stopped as a standby.
    ShutDownInRecovery,
    /// In production: a primary that runs or crashed.
    InProduction,
    /// In recovery: a standby that runs or crashed, or a crash recovery that was not completed.
    InRecovery,
}

/// The server processes of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Not one process is left.
    Stopped {
        /// Since when that is known.
        since: BootTime,
    },
    /// The postmaster is gone, processes of it are left: they may still commit.
    Dying {
        /// Since when the postmaster is gone.
        since: BootTime,
    },
    /// A postmaster is there.
    Running {
        /// Whether the guard started it, so that the deadline is enforced on it.
        guarded: bool,
        /// Since when.
        since: BootTime,
        /// It was told to become a primary, by this agent or by one before it. That cannot be taken back, and until it is one it says that
        /// it is in recovery.
        promoting: bool,
        /// What it says.
        answer: Answer,
    },
}

impl Server {
    /// Its account as a standby, which it stays: not when it was told to become a primary.
    pub fn standby(&self) -> Option<&StandbyStatus> {
        match self {
            Self::Running { answer: Answer::Standby(status), promoting: false, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether it is a standby, stays one, and the deadline is enforced on it.
    pub fn is_guarded_standby(&self) -> bool {
        self.standby().is_some() && matches!(self, Self::Running { guarded: true, .. })
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It refuses connections because it starts up or shuts down.
    Starting,
    /// Nothing, or an error.
    Silent {
        /// Since when.
        since: BootTime,
    },
    /// It is a primary.
    Primary(PrimaryStatus),
    /// It is a standby.
    Standby(StandbyStatus),
}

/// A primary's own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// Its timeline with ancestors.
    pub history: TimelineHistory,
    /// How far its WAL is written.
    pub position: Lsn,
    /// Whether a checkpoint has completed since it was promoted: before, `pg_rewind` against it is not sound.
    pub checkpointed: bool,
}

/// A standby's own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyStatus {
    /// The timeline that it has received last, with its ancestors.
    pub history: TimelineHistory,
    /// How far WAL was received and flushed, at least as far as it was replayed.
    pub received: Lsn,
    /// What the server itself calls the last received position. After a restart without an upstream that is the
    /// start of a segment: never to be used in a vote (PAF#228). Kept so that a test can show it.
    pub reported_received: Lsn,
    /// How far WAL was replayed.
    pub replayed: Lsn,
    /// Replay is paused.
    pub replay_paused: bool,
    /// The member that its configuration names as upstream.
    pub upstream: Option<MemberName>,
    /// The WAL receiver is streaming from that upstream.
    pub streaming: bool,
}

/// The cluster as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreView {
    /// When the newest successful linearizable read (or renewal) was *sent*. None: not once since the agent started.
    pub as_of: Option<BootTime>,
    /// The revision of that view.
    pub revision: Revision,
    /// What it showed.
    pub cluster: Cluster,
    /// The other voters that the configuration lists, with what they said about their hosts; empty for a store that is not ours.
    pub listed: Vec<Listed>,
}

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Whether and as what the cluster was initialised.
    pub initialize: Initialize,
    /// The leader key.
    pub leader: Option<LeaderKey>,
    /// The members that have a key, this one included.
    pub members: BTreeMap<MemberName, MemberFacts>,
    /// The last position that a holder published.
    pub position: Lsn,
    /// The ancestors of the newest timeline that a holder published, and that timeline.
    pub history: Option<TimelineHistory>,
    /// The reign in which that was published, if its holder said it.
    pub history_epoch: Option<Epoch>,
    /// The highest timeline number that was given out.
    pub reserved: Option<Reservation>,
    /// A switchover or manual failover that was asked for.
    pub failover: Option<FailoverRequest>,
    /// The base of epochs.
    pub base: u64,
    /// The poolers that clients go through, by name, as long as they live and follow this cluster.
    pub poolers: BTreeMap<String, PoolerFacts>,
}

/// What a pooler has said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolerFacts {
    /// Which asking it has answered last ([`Pausing::since`](crate::memory::Pausing::since)).
    pub answered: Option<BootTime>,
    /// It holds its clients since then; otherwise it cannot.
    pub holds: bool,
}

/// The key `initialize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initialize {
    /// Absent: a store that knows no such cluster.
    #[default]
    Absent,
    /// A member is making the cluster right now; the key goes away with that member's session.
    UnderWay {
        /// It is this one.
        mine: bool,
    },
    /// The cluster's identity.
    Done(SystemId),
}

/// The leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    /// Who holds the lease.
    pub member: MemberName,
    /// The revision at which the key was created.
    pub created: Revision,
    /// The epoch that follows from it.
    pub epoch: Epoch,
}

/// What another member published about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberFacts {
    /// It must not lead.
    pub nofailover: bool,
    /// It has a data directory that can be cloned from or promoted.
    pub has_data: bool,
    /// Its server runs as a primary and accepts connections.
    pub primary: bool,
}

/// The highest timeline number that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// The number.
    pub timeline: TimelineId,
    /// The revision of the key: an acquisition compares it.
    pub revision: Revision,
}

/// The key `failover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRequest {
    /// The holder that shall hand over; none: a manual failover, whoever leads.
    pub leader: Option<MemberName>,
    /// The member that shall lead.
    pub candidate: Option<MemberName>,
    /// The holder wrote it when it gave up the lease, having proof that the candidate holds everything.
    pub handed_over: bool,
    /// When it is due, translated to this host's clock.
    pub due: Option<BootTime>,
    /// The revision of the key: a clean-up compares it.
    pub revision: Revision,
}

/// Another voter that the configuration lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its address.
    pub address: String,
    /// When the question was sent; none: not since the store was formed.
    pub asked: Option<BootTime>,
    /// What it said about its host; none: it did not answer.
    pub host: Option<HostFacts>,
}

/// What a member says about its host before any store exists that could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The identity of the data there; none: no data.
    pub system_id: Option<SystemId>,
    /// A server runs there that is not proven to be in recovery.
    pub primary_may_run: bool,
    /// The highest timeline number that occurs in the data there.
    pub timeline: Option<TimelineId>,
    /// The highest epoch that the member there has seen.
    pub promised: Epoch,
    /// Longest time that a lease recorded beside the data may still have to run.
    pub lease_left: Duration,
}

/// A lease as its holder knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The reign.
    pub epoch: Epoch,
    /// The revision at which the leader key was created.
    pub created: Revision,
    /// The time to live that it was granted with.
    pub granted: Duration,
    /// When the server must be dead at the latest, less K: see [`crate::lease::deadline`].
    pub deadline: BootTime,
}

/// The guard as it describes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// It answers.
    pub alive: bool,
    /// It enforces a deadline.
    pub armed: bool,
}

/// What another member answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAnswer {
    /// When the question was sent.
    pub asked: BootTime,
    /// The identity of its data.
    pub system_id: Option<SystemId>,
    /// A server of it runs and is not in recovery.
    pub primary: bool,
    /// Its newest timeline, with ancestors; none: no data, or no answer of its server.
    pub history: Option<TimelineHistory>,
    /// How far it has received WAL, or written it.
    pub position: Lsn,
    /// Why it would not lead if there were no leader; none: it would.
    pub unfit: Option<String>,
    /// Its `failover_priority`.
    pub priority: u32,
    /// A checkpoint has completed since it was promoted (for a primary).
    pub checkpointed: bool,
    /// The highest epoch that it has seen.
    pub promised: Epoch,
    /// The highest timeline number that it has seen given out.
    pub timeline_given: Option<TimelineId>,
    /// The epoch for whose handover it has made itself ready: it streams from the holder, replay is not paused or
    /// delayed and close to what was received, and no session blocks it.
    pub prepared: Option<Epoch>,
    /// The shutdown checkpoint that it was asked for last, and whether it holds it.
    pub proof: Option<(ShutdownCheckpoint, bool)>,
}

/// An operation that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub kind: OperationKind,
    /// Since when.
    pub since: BootTime,
}

/// An operation that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What it was.
    pub kind: OperationKind,
    /// When it ended.
    pub at: BootTime,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// A stop for a handover: the control file says "shut down", and this is the record that proves it.
    ShutDown(ShutdownCheckpoint),
    /// It failed, with the reason. Nothing is half done that a later observation would not show.
    Failed(String),
}

/// What an operator asks of this very member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// End the agent: stop the server, hand over, release (SIGTERM).
    pub terminate: bool,
    /// Restart the server.
    pub restart: bool,
    /// How long that restart may take from the start of the server; none: `primary_start_timeout`.
    pub start_within: Option<Duration>,
    /// Put the data away and clone anew.
    pub reinitialize: bool,
}
