use std::collections::BTreeSet;

use pgbaton_store::LeaseId;
use pgbaton_types::{BootTime, Epoch, TimelineId};

use pgbaton_core::observation::Lease;

use crate::address_model::OnInterface;
use crate::agent_model::Agent;
use crate::event::Event;
use crate::guard_model::Guard;
use crate::postgres_model::{Postgres, Role};
use crate::time::{HostClock, Time};

/// One machine with its member.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its clock.
    pub(crate) clock: HostClock,
    /// It has power.
    pub(crate) up: bool,
    /// Nothing on it is scheduled; its clock goes on.
    pub(crate) frozen: bool,
    /// The data directory and the server.
    pub(crate) postgres: Postgres,
    /// The guard.
    pub(crate) guard: Guard,
    /// The agent.
    pub(crate) agent: Agent,
    /// The virtual address, if it is on this host's interface.
    pub(crate) address: Option<OnInterface>,
    /// What the agent keeps beside the data directory.
    pub(crate) durable: Durable,
    /// The data directory cannot be read.
    pub(crate) unreadable: bool,
    /// Its WAL receiver takes nothing more, and cannot be ended.
    pub(crate) receiver_hangs: bool,
    /// Since when the server does not answer the agent's queries, though it serves clients.
    pub(crate) silent_since: Option<BootTime>,
    /// Since when a server accepts writes here that somebody else started or promoted.
    pub(crate) strange_since: Option<Time>,
    /// What waits until the host or its agent runs again.
    pub(crate) deferred: Vec<Event>,
}

/// What survives an agent and a loss of power.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable {
    /// The highest epoch that was seen.
    pub(crate) promised: Epoch,
    /// The highest timeline number that was seen given out.
    pub(crate) timeline_given: Option<TimelineId>,
    /// The lease that was held last.
    pub(crate) lease: Option<Held>,
    /// The other members, by number, that the store has shown.
    pub(crate) members: BTreeSet<usize>,
}

/// A lease with its number in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// What the core knows of it.
    pub(crate) lease: Lease,
    /// Its number.
    pub(crate) id: LeaseId,
}

impl Host {
    /// A client could get a commit acknowledged here right now.
    pub(crate) fn can_acknowledge(&self) -> bool {
        self.up && !self.frozen && self.postgres.accepts_writes()
    }

    /// The server says that it is in recovery, and no agent has told it to become a primary.
    pub(crate) fn says_standby(&self) -> bool {
        let told = self.postgres.running().is_some_and(|running| running.promoting);
        matches!(self.postgres.role(), Some(Role::Standby | Role::Promoting)) && !told
    }

    /// The agent runs and is scheduled.
    pub(crate) fn agent_runs(&self) -> bool {
        self.up && !self.frozen && self.agent.alive && !self.agent.frozen
    }
}
