//! What one decision tells the next one.

use std::time::Duration;

use pgbaton_types::{BootTime, Epoch, Lsn, MemberName, Revision, ShutdownCheckpoint, TimelineId};

/// What one decision tells the next one of the same agent. An agent that starts anew begins with the default one, but
/// for `promised` and `timeline_given`, which the executor keeps beside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The last role that the server was *seen* in since it started: what is acted on while it is silent (S19).
    pub proven: Option<Proven>,
    /// The highest epoch that this member has seen. Monotonic, durable.
    pub promised: Epoch,
    /// The highest timeline number that this member has seen given out. Monotonic, durable.
    pub timeline_given: Option<TimelineId>,
    /// The holder that was seen last.
    pub last_holder: Option<MemberName>,
    /// The reign that is seen, and since when: what its holder said before tells of another reign.
    pub reign_seen: Option<(Epoch, BootTime)>,
    /// The base of epochs and the revision when the store was read last. Neither ever goes back in one store.
    pub store_at: (u64, Revision),
    /// When the store was last found to be behind that, or behind an epoch that a member has seen: an older copy was put in its place.
    pub store_went_back: Option<BootTime>,
    /// The highest epoch that it had forgotten then.
    pub store_forgot: Epoch,
    /// The highest epoch that a member has seen while the store showed less, and since when that is known.
    pub store_behind: Option<(Epoch, BootTime)>,
    /// The store, knowing the cluster, has shown other members in this agent's life.
    pub others_seen: bool,
    /// The longest `ttl` that was configured in this agent's life: a lease that is held may have any of them.
    pub longest_ttl: Duration,
    /// The race for a lease that nobody holds.
    pub race: Option<Race>,
    /// The handover that this holder is at.
    pub handover: Option<Handover>,
    /// The poolers are asked to hold their clients, until somebody takes writes again.
    pub pausing: Option<Pausing>,
    /// Since when the holder's own server is down.
    pub down_since: Option<BootTime>,
    /// The holder has given up on its own server, which another member can relieve.
    pub gave_up: bool,
    /// A handover was called off: the server that it stopped is to be the primary again.
    pub resumes: bool,
    /// When the holder last asked who could lead in its place.
    pub relief_asked: Option<BootTime>,
    /// The last time that work on the data directory failed, and how often in a row: it is tried again later and later.
    pub failures: Failures,
    /// This agent made the database itself, in this life, and it was never started elsewhere.
    pub made_here: bool,
    /// The epoch in which this server was promoted or started as a primary.
    pub reign: Option<Epoch>,
    /// The timeline that was reserved with the lease that is held.
    pub reserved: Option<TimelineId>,
    /// To whom the lease was given in a proven handover.
    pub yielded: Option<Yielded>,
    /// The agent was told to end and has tried to hand over.
    pub ending: bool,
    /// What the last handover came to, for whoever asked for it.
    pub last_handover: Option<String>,
    /// The request, by its revision, that came to nothing after the server was stopped, and why: its key is emptied as
    /// soon as the server is the primary again.
    pub refused: Option<(Revision, String)>,
    /// The lease came with a handover: the promotion needs nothing from an archive.
    pub handed_over: bool,
}

impl Memory {
    /// The store was found to have forgotten this epoch.
    pub(crate) fn forgotten_by_store(&mut self, epoch: Epoch, now: BootTime) {
        self.store_went_back = Some(now);
        self.store_forgot = self.store_forgot.max(epoch);
    }
}

/// A role that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

/// A lease that was given to a successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yielded {
    /// Who had proven that it holds everything.
    pub successor: MemberName,
    /// The epoch that ended thereby.
    pub epoch: Epoch,
    /// Where the WAL of that reign ends.
    pub end: Lsn,
    /// When.
    pub at: BootTime,
}

/// The race for a lease that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Race {
    /// When this member saw that nobody holds it.
    pub since: BootTime,
    /// When the peers were asked last.
    pub asked: BootTime,
    /// The revision of the store's view by then.
    pub revision: Revision,
}

/// The poolers are asked to hold their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pausing {
    /// The reign that is about to end.
    pub epoch: Epoch,
    /// Since when; it tells this asking from others.
    pub since: BootTime,
}

/// A handover by the holder, planned or because its agent ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The reign that it ends. With its lease the handover is over, too.
    pub epoch: Epoch,
    /// Who shall lead; none while it is being chosen.
    pub candidate: Option<MemberName>,
    /// How far it is.
    pub phase: HandoverPhase,
    /// When it was begun.
    pub since: BootTime,
    /// When the candidate was asked last.
    pub asked: BootTime,
}

/// How far a handover is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverPhase {
    /// The members are asked which of them can lead; clients still write.
    Choosing,
    /// The candidate makes itself ready; clients still write.
    Preparing,
    /// The server is being stopped.
    Stopping,
    /// The candidate is asked whether it holds this record.
    Proving {
        /// The last record of the reign.
        checkpoint: ShutdownCheckpoint,
        /// When it was asked first.
        since: BootTime,
    },
    /// Called off: the rest of the tree is killed, and the server starts again as a primary.
    Resuming,
}

/// Failures in a row of work on the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// Not before then.
    pub not_before: BootTime,
}
