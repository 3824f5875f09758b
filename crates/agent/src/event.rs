//! What the loop wakes for. Nothing else changes what it remembers.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::RestartRequest;
use pgbaton_core::Observation;
use pgbaton_core::observation::{HostFacts, Outcome, PeerAnswer};
use pgbaton_types::{BootTime, MemberName, ShutdownCheckpoint};
use tokio::sync::oneshot;

/// Something that happened. The loop looks at everything anew at each event; an event only says that there is a reason to, or brings
/// what cannot be looked up.
#[derive(Debug)]
pub enum Event {
    /// The keys of the cluster changed, or were read anew.
    StoreChanged,
    /// The lease was renewed or lost.
    LeaseChanged,
    /// The guard said that the postmaster ended or that no process is left.
    ServerChanged,
    /// The guard is gone.
    GuardLost,
    /// The operation with this number ended.
    OperationFinished {
        /// Its number.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The checkpoint that was asked for then has ended, well or not.
    Checkpointed {
        /// When.
        asked: BootTime,
    },
    /// A member answered.
    PeerAnswered {
        /// Who.
        member: MemberName,
        /// What; the parts that were not asked for are as they were.
        update: Box<PeerUpdate>,
    },
    /// An operator asks something of this member.
    Order {
        /// What.
        order: Order,
        /// For its outcome.
        reply: oneshot::Sender<OrderReply>,
    },
    /// A member asks how far this one is: answered with what the next decision saw.
    AskedPosition {
        /// For the answer.
        reply: oneshot::Sender<Looked>,
    },
    /// Another agent with this member's name answers at this address.
    NameTaken {
        /// Its REST address.
        address: String,
    },
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP: the own configuration may have changed.
    Reload,
}

/// The part of a peer's answer that came.
#[derive(Debug)]
pub enum PeerUpdate {
    /// Where it stands. What it proved before is not in it.
    Position(PeerAnswer),
    /// Whether it holds a shutdown checkpoint.
    Proof {
        /// The record.
        checkpoint: ShutdownCheckpoint,
        /// Whether it holds it.
        holds: bool,
    },
}

/// What a fresh look gave.
#[derive(Debug, Clone)]
pub struct Looked {
    /// What was seen.
    pub observation: Arc<Observation>,
    /// Why this member would not lead if there were no leader; none: it would.
    pub unfit: Option<String>,
    /// What is known of this host without asking its server.
    pub host: HostFacts,
}

/// What an operator may ask of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Restart the server. The reply comes when it is up again.
    Restart {
        /// How long the server may take to start; none: `primary_start_timeout` for a primary.
        start_within: Option<Duration>,
    },
    /// Restart the server at its time, if the conditions are met then. The reply comes at once; refused: another one waits.
    ScheduleRestart(RestartRequest),
    /// Forget the restart that waits. The reply comes at once; refused: none waits.
    UnscheduleRestart,
    /// Put the data away and clone anew. The reply comes at once.
    Reinitialize,
    /// Read the own configuration again. The reply comes when that is done.
    Reload,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderReply {
    /// It is done, or, for a new clone, begun.
    Done,
    /// It cannot be done, and nothing was changed.
    Refused(String),
    /// It was tried and failed.
    Failed(String),
}
