//! What a member does: actions of a closed set, each with the facts that it was decided on, and the reasons.

use std::fmt;
use std::time::Duration;

use pgbaton_types::{
    BootTime, Epoch, Lsn, MemberName, Revision, ShutdownCheckpoint, SystemId, TimelineHistory, TimelineId,
};

use crate::address::Address;
use crate::memory::Memory;
use crate::observation::Initialize;
use crate::report::Finding;

/// What to do now, when to look again, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In this order. An action that fails is not repeated by the executor: the next decision sees what is there.
    pub actions: Vec<Action>,
    /// Whether the lease, if one is held, may be renewed until the next decision.
    pub renew: bool,
    /// What is to become of the virtual address, if there is one.
    pub address: Address,
    /// Why this member would not lead if there were no leader; none: it would. Told to peers who ask.
    pub unfit: Option<String>,
    /// Decide again at the latest then.
    pub wake_at: BootTime,
    /// To be handed to the next decision.
    pub memory: Memory,
    /// For each step that was looked at, what came of it.
    pub report: Vec<Finding>,
}

/// Something to be done by the executor. Immediate unless it is [`Action::Begin`]: its effect shows in a later observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create the key `initialize` with an empty value, bound to this member's session lease, if it is absent.
    ClaimBootstrap,
    /// Delete the key `initialize` if it is this member's own claim: there is data after all.
    WithdrawClaim,
    /// Write the identity into `initialize`, if the key is empty or absent. Only the holder of `epoch` does.
    RecordInitialize {
        /// The identity of the local data.
        system_id: SystemId,
        /// The reign in which it is recorded.
        epoch: Epoch,
    },
    /// Create the leader key bound to a new lease, and reserve a timeline number, in one transaction that compares: the
    /// leader key is absent; the reservation still has the revision that was seen; the cluster's identity is still the one
    /// that was seen, which it is not after the store was wiped.
    AcquireLease {
        /// The timeline number to reserve for the promotion that follows.
        reserve: TimelineId,
        /// The revision of the reservation that was seen; none: there was none.
        reservation_seen: Option<Revision>,
        /// The key `initialize` as it was seen.
        initialize_seen: Initialize,
        /// The identity of the local data, to be written into `initialize` in the same transaction, since the store does not know this cluster:
        /// from then on nobody makes another one beside it.
        identity: Option<SystemId>,
        /// Time to live to ask for.
        ttl: Duration,
        /// The highest epoch that any member is known to have seen. The new one is higher: `base` is raised before the
        /// grant if it would not be.
        above: Epoch,
    },
    /// Delete the leader key if it was created at `created`. With a successor, the same transaction names it in the
    /// key `failover`. The local lease is forgotten *before* the request is sent.
    ReleaseLease {
        /// The creation revision of the key.
        created: Revision,
        /// Who is proven to hold everything.
        successor: Option<MemberName>,
    },
    /// Publish how far the WAL is written (key `status`). Only the holder does.
    PublishPosition {
        /// The position.
        position: Lsn,
    },
    /// Publish the history of the holder's timeline (key `history`).
    PublishHistory {
        /// The history.
        history: TimelineHistory,
    },
    /// Empty the key `failover` if it still has this revision.
    ClearFailover {
        /// The revision that was seen.
        revision: Revision,
        /// What the operator is told.
        why: String,
    },
    /// Ask these members for their positions, without waiting for the answers.
    AskPeers {
        /// Whom.
        members: Vec<MemberName>,
    },
    /// Ask the other listed voters about their hosts, without waiting for the answers.
    AskListed,
    /// Ask the candidate to make itself ready: replay resumed and not delayed, close to what it has received.
    PrepareCandidate {
        /// Whom.
        candidate: MemberName,
        /// The reign that will end.
        epoch: Epoch,
    },
    /// Have the server write what is dirty, for [`CHECKPOINT_TIME`] at most, without waiting for it: what is left to a shutdown is little then.
    Checkpoint,
    /// Ask the candidate whether it holds this record. It answers when it does, or that it does not.
    AskProof {
        /// Whom.
        candidate: MemberName,
        /// The record.
        checkpoint: ShutdownCheckpoint,
    },
    /// Have a replication slot for each of these members, and none for members that are gone.
    SetSlots {
        /// Members other than the holder.
        members: Vec<MemberName>,
    },
    /// Tell the guard to enforce the deadline of the lease that is held: a maintenance mode has ended.
    ArmGuard {
        /// The reign.
        epoch: Epoch,
        /// The deadline of its last renewal.
        deadline: BootTime,
    },
    /// Tell the guard to enforce no deadline.
    DisarmGuard {
        /// Why that is safe.
        why: Disarm,
    },
    /// Begin an operation. There is none under way.
    Begin(OperationKind),
    /// Give up the operation that is under way. It ends as failed.
    CancelOperation,
    /// End the agent. The server is stopped, or was never started, or is left to an operator.
    Exit {
        /// The exit code: 0 after an orderly end, [`EXIT_LEAVES`] when the server goes on.
        code: u8,
        /// What the operator is told.
        why: String,
    },
}

/// How long the checkpoint before the server stops for a handover may take. It begins when the candidate is chosen, so that clients still write;
/// what it does not get done is written while nobody can.
pub const CHECKPOINT_TIME: Duration = Duration::from_secs(3);
/// Exit code of an agent that leaves its server running: in maintenance mode the server is the operator's.
pub const EXIT_LEAVES: u8 = 4;

/// Why no deadline needs to be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disarm {
    /// No process of the server is left.
    Stopped,
    /// The server that runs was started as a standby, and says so.
    Standby,
    /// The operator has taken over.
    Paused,
}

/// Work that takes time. One at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationKind {
    /// Make a new database in the empty directory, or in place of one that was not completed. The directory stays
    /// [`crate::observation::Work::Bootstrap`] until `FinishBootstrap`.
    Initdb,
    /// Make roles and passwords in the running new primary, then declare the directory complete.
    FinishBootstrap {
        /// The reign.
        epoch: Epoch,
    },
    /// Rename the data directory into quarantine, so that an empty one is there. Nothing is deleted.
    Quarantine {
        /// Why.
        why: QuarantineReason,
    },
    /// Make a base backup of this member into the empty directory, or in place of one that was not completed.
    Clone {
        /// The source: the holder.
        from: MemberName,
        /// The reign of the source.
        epoch: Epoch,
    },
    /// Rewind the stopped directory to the history of this member.
    Rewind {
        /// The source: the holder, after its first checkpoint.
        from: MemberName,
        /// The reign of the source.
        epoch: Epoch,
    },
    /// Start the crashed directory as a standby without upstream, wait until recovery has reached the end of its WAL, stop it.
    RecoverAlone,
    /// Start as a standby.
    StartStandby {
        /// Whom to stream from; none: nobody yet.
        upstream: Option<MemberName>,
    },
    /// Start as a primary, under the armed lease of this reign: a crashed or stopped holder's own server, or a new cluster.
    StartPrimary {
        /// The reign.
        epoch: Epoch,
    },
    /// Stop.
    Stop {
        /// How.
        mode: StopMode,
    },
    /// Promote the standby under the armed lease of this reign.
    Promote {
        /// The reign.
        epoch: Epoch,
        /// The timeline number reserved for it.
        timeline: TimelineId,
        /// It was proven that this member holds the old primary's shutdown checkpoint: nothing is fetched from an archive.
        proven: bool,
    },
    /// Point the running standby at another upstream and see it stream.
    Follow {
        /// Whom.
        upstream: MemberName,
    },
}

/// Why a data directory is put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// Work on it was begun and not ended.
    Incomplete,
    /// It diverged and cannot be rewound; the configuration allows to clone anew.
    Diverged,
    /// The rewind failed; the configuration allows to clone anew.
    RewindFailed,
    /// An operator asked for it.
    Ordered,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Fast, ended by the control file saying "shut down": the operation's outcome is the shutdown checkpoint. What is
    /// left of the tree may finish archiving until the lease's deadline.
    Handover,
    /// Fast, until no process is left; killed when it takes too long.
    Fast,
    /// The whole tree is killed at once.
    Kill,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initdb => formatter.write_str("initdb"),
            Self::FinishBootstrap { .. } => formatter.write_str("finish bootstrap"),
            Self::Quarantine { why } => write!(formatter, "put the data directory away ({why:?})"),
            Self::Clone { from, .. } => write!(formatter, "clone from {from}"),
            Self::Rewind { from, .. } => write!(formatter, "rewind to {from}"),
            Self::RecoverAlone => formatter.write_str("recover without upstream"),
            Self::StartStandby { upstream: Some(upstream) } => write!(formatter, "start as standby of {upstream}"),
            Self::StartStandby { upstream: None } => formatter.write_str("start as standby"),
            Self::StartPrimary { epoch } => write!(formatter, "start as primary in {epoch}"),
            Self::Stop { mode } => write!(formatter, "stop ({mode:?})"),
            Self::Promote { epoch, timeline, .. } => write!(formatter, "promote in {epoch} to timeline {timeline}"),
            Self::Follow { upstream } => write!(formatter, "follow {upstream}"),
        }
    }
}
