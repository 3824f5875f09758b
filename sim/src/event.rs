use pgbaton_core::observation::PeerAnswer;
use pgbaton_types::{BootTime, Epoch, ShutdownCheckpoint};

use crate::faults::Undo;
use crate::store_model::{Answer, Request};

/// Something that happens at a moment. `life` fields name the life of the agent or server that it is meant for: a
/// later one never hears of it.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The guard starts the agent.
    AgentStart { member: usize },
    /// The agent looks and decides.
    Decide { member: usize, life: u64 },
    /// The moment that the last decision wanted to be woken at.
    Wake { member: usize, life: u64, serial: u64 },
    /// What was decided is carried out.
    Execute { member: usize, life: u64 },
    /// A request reaches the store.
    StoreArrive { member: usize, life: u64, sent: BootTime, purpose: Purpose, request: Box<Request>, give_up: u64 },
    /// The store's answer, or the certainty that none comes.
    StoreReply { member: usize, life: u64, sent: BootTime, purpose: Purpose, answer: Option<Answer> },
    /// The lease is to be renewed.
    RenewTimer { member: usize, life: u64, serial: u64 },
    /// The store tells that something changed.
    Watch { member: usize, life: u64 },
    /// An agent's question reaches another.
    Ask { from: usize, life: u64, to: usize, asked: BootTime, question: Question },
    /// The answer comes back.
    Told { to: usize, life: u64, from: usize, answer: Box<PeerAnswer> },
    /// The work of an operation has come to its end, or its patience has.
    OperationStep { member: usize, life: u64, serial: u64 },
    /// The checkpoint that an agent asked for then has ended.
    Checkpointed { member: usize, life: u64, asked: BootTime },
    /// The guard's deadline.
    GuardTimer { member: usize, serial: u64 },
    /// The guard kills.
    GuardKill { member: usize, serial: u64 },
    /// A dead guard is started again.
    GuardBack { member: usize },
    /// The server's recovery has ended.
    ServerUp { member: usize, life: u64 },
    /// The promotion is complete.
    ServerPromoted { member: usize, life: u64 },
    /// The control file says "shut down".
    ServerShutDown { member: usize, life: u64 },
    /// The last process is gone.
    ServerExit { member: usize, life: u64 },
    /// The first checkpoint after a promotion.
    Checkpoint { member: usize, life: u64 },
    /// A batch of WAL is flushed on the standby.
    Deliver { member: usize, life: u64 },
    /// The WAL receiver tries to connect.
    Connect { member: usize, life: u64 },
    /// Clients write.
    Write,
    /// A lease in the store may have run out.
    StoreExpiry,
    /// A fault begins.
    Fault,
    /// A fault ends.
    Undo(Undo),
    /// An operator does something.
    Operator,
    /// A pooler says that it is there.
    PoolerThere { pooler: usize },
    /// A pooler answers the holder that asks it to hold its clients.
    PoolerAnswers { pooler: usize, asked: BootTime, holds: bool },
    /// All faults end.
    Heal,
    /// The healed cluster is looked at.
    Settle,
}

/// What a request to the store was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The regular look.
    Poll,
    /// A renewal.
    Renew,
    /// Taking the lease, with the number chosen for it.
    Acquire { lease: u64, ttl_ms: u64 },
    /// Giving it back.
    Release,
    /// Something that the next decision waits for.
    Awaited,
    /// Something that nobody waits for.
    Publish,
}

/// What an agent asks another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    /// How far it is.
    Position,
    /// To make itself ready.
    Prepare(Epoch),
    /// Whether it holds this record.
    Proof(ShutdownCheckpoint),
}

/// What an event needs in order to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// A running agent.
    Agent(usize),
    /// A host that is not frozen.
    Host(usize),
    /// The guard: the first to run when its host is thawed, since its timer is long due.
    Guard(usize),
    /// Nothing.
    World,
}

impl Event {
    /// What it needs.
    pub(crate) fn layer(&self) -> Layer {
        match self {
            Self::Decide { member, .. }
            | Self::Wake { member, .. }
            | Self::Execute { member, .. }
            | Self::StoreReply { member, .. }
            | Self::RenewTimer { member, .. }
            | Self::Watch { member, .. }
            | Self::OperationStep { member, .. }
            | Self::Checkpointed { member, .. } => Layer::Agent(*member),
            Self::Ask { to: member, .. } | Self::Told { to: member, .. } => Layer::Agent(*member),
            Self::GuardTimer { member, .. } | Self::GuardKill { member, .. } => Layer::Guard(*member),
            Self::AgentStart { member }
            | Self::GuardBack { member }
            | Self::ServerUp { member, .. }
            | Self::ServerPromoted { member, .. }
            | Self::ServerShutDown { member, .. }
            | Self::ServerExit { member, .. }
            | Self::Checkpoint { member, .. }
            | Self::Deliver { member, .. }
            | Self::Connect { member, .. } => Layer::Host(*member),
            Self::StoreArrive { .. }
            | Self::Write
            | Self::StoreExpiry
            | Self::Fault
            | Self::Undo(_)
            | Self::Operator
            | Self::PoolerThere { .. }
            | Self::PoolerAnswers { .. }
            | Self::Heal
            | Self::Settle => Layer::World,
        }
    }
}
