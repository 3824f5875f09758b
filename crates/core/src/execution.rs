//! The rules by which an executor checks an action again, right before the step that cannot be undone.
//!
//! A decision is made on facts that may have aged while other actions ran or the process was frozen. These rules are
//! pure and shared by the agent and the simulator; a refusal leaves the world as it is and is reported.

use pgbaton_types::{BootTime, Epoch};

use crate::bugs::{Bug, Bugs};
use crate::decision::{Action, Disarm, OperationKind};
use crate::lease;
use crate::observation::{LeaderKey, Lease};

/// What the executor knows at the moment of execution, read anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Now.
    pub now: BootTime,
    /// The lease that is held.
    pub lease: Option<Lease>,
    /// A renewal of it is under way.
    pub renewing: bool,
    /// The guard enforces the deadline of this epoch.
    pub armed: Option<Epoch>,
    /// Maintenance mode: no deadline is enforced.
    pub paused: bool,
    /// A process of the server is left, the postmaster or any other.
    pub tree_alive: bool,
    /// The server that runs was started as a standby in this life of its postmaster, and says that it is in recovery.
    pub proven_standby: bool,
    /// The leader key in the newest view of the store.
    pub leader: Option<&'a LeaderKey>,
    /// Known bugs that are put back.
    pub bugs: Bugs,
}

/// Why an action is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// The lease that it needs is not held any more.
    LeaseLost {
        /// The reign it was decided for.
        epoch: Epoch,
    },
    /// The guard does not enforce the deadline of that reign.
    NotArmed {
        /// The reign it was decided for.
        epoch: Epoch,
    },
    /// The source of a copy does not lead any more.
    SourceGone,
    /// A process of the server is still there.
    TreeAlive,
    /// The server is not proven to be in recovery.
    NotStandby,
}

impl std::fmt::Display for Stale {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LeaseLost { epoch } => write!(formatter, "the lease of {epoch} is not held any more"),
            Self::NotArmed { epoch } => write!(formatter, "the guard does not enforce the deadline of {epoch}"),
            Self::SourceGone => formatter.write_str("the member to copy from does not lead any more"),
            Self::TreeAlive => formatter.write_str("a process of the server is still there"),
            Self::NotStandby => formatter.write_str("the server is not proven to be in recovery"),
        }
    }
}

/// Checks an action against the facts of this moment.
///
/// # Errors
/// The fact that does not hold any more.
pub fn check(action: &Action, facts: &Facts<'_>) -> Result<(), Stale> {
    match action {
        Action::Begin(kind) => check_operation(kind, facts),
        Action::RecordInitialize { epoch, .. } if facts.bugs.has(Bug::Patroni2970) && epoch.0 == 0 => Ok(()),
        Action::RecordInitialize { epoch, .. } | Action::ArmGuard { epoch, .. } => holds(*epoch, facts),
        Action::PublishPosition { .. } | Action::PublishHistory { .. } => match facts.lease {
            Some(lease) => holds(lease.epoch, facts),
            None => Err(Stale::LeaseLost { epoch: Epoch::default() }),
        },
        Action::DisarmGuard { why: Disarm::Stopped } if facts.tree_alive && !facts.bugs.has(Bug::Patroni3639) => {
            Err(Stale::TreeAlive)
        }
        Action::DisarmGuard { why: Disarm::Standby } if !facts.proven_standby => Err(Stale::NotStandby),
        _ => Ok(()),
    }
}

fn check_operation(kind: &OperationKind, facts: &Facts<'_>) -> Result<(), Stale> {
    match kind {
        OperationKind::StartPrimary { .. } if facts.bugs.has(Bug::Repmgr766) => Ok(()),
        OperationKind::StartPrimary { epoch } | OperationKind::Promote { epoch, .. } => {
            holds(*epoch, facts)?;
            if facts.armed != Some(*epoch) && !facts.paused {
                return Err(Stale::NotArmed { epoch: *epoch });
            }
            Ok(())
        }
        OperationKind::FinishBootstrap { epoch } => holds(*epoch, facts),
        OperationKind::Clone { from, epoch } | OperationKind::Rewind { from, epoch } => match facts.leader {
            Some(leader) if leader.member == *from && leader.epoch == *epoch && !facts.tree_alive => Ok(()),
            Some(_) if facts.tree_alive => Err(Stale::TreeAlive),
            _ => Err(Stale::SourceGone),
        },
        OperationKind::Initdb
        | OperationKind::Quarantine { .. }
        | OperationKind::RecoverAlone
        | OperationKind::StartStandby { .. }
            if facts.tree_alive =>
        {
            Err(Stale::TreeAlive)
        }
        _ => Ok(()),
    }
}

fn holds(epoch: Epoch, facts: &Facts<'_>) -> Result<(), Stale> {
    match facts.lease {
        Some(lease)
            if lease.epoch == epoch && !lease::expired(facts.now, lease.deadline, facts.renewing, facts.bugs) =>
        {
            Ok(())
        }
        _ => Err(Stale::LeaseLost { epoch }),
    }
}
