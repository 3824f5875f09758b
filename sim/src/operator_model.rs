//! People at the keyboard: what they may do by right, and what they do all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use pgbaton_store::{Compare, Op, Txn};
use pgbaton_types::MemberName;

use crate::event::Event;
use crate::faults::Undo;
use crate::invariants::Moment;
use crate::layout;
use crate::postgres_model::Role;
use crate::time::{SECOND, Time};
use crate::world::{World, trace};

/// How often, of a thousand acts, a copy of the store is made before it.
const COPY_PERMILLE: u64 = 500;

/// Whoever has read the store no longer ago is there, as an operator sees it.
const LATELY: Duration = Duration::from_secs(2);

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OperatorKind {
    /// Asks for a switchover to anyone.
    Switchover,
    /// Asks for a switchover to a member.
    SwitchoverTo,
    /// Asks for a switchover later.
    Scheduled,
    /// Asks for a failover to a member, whoever leads.
    Failover,
    /// Turns maintenance mode on, and later off.
    Pause,
    /// Restarts a member's server.
    Restart,
    /// Has a member cloned anew.
    Reinitialize,
    /// Ends an agent in order; it is started again later.
    Terminate,
    /// Starts a stopped server by hand.
    StartByHand,
    /// Promotes a standby by hand.
    PromoteByHand,
    /// Loses the directories of all voters.
    WipeStore,
    /// Puts an older copy of the store in its place.
    RestoreStore,
    /// Loses a member's data directory.
    LoseDirectory,
    /// Changes ttl for everybody.
    EditTtl,
}

impl OperatorKind {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::Switchover,
        Self::SwitchoverTo,
        Self::Scheduled,
        Self::Failover,
        Self::Pause,
        Self::Restart,
        Self::Reinitialize,
        Self::Terminate,
        Self::StartByHand,
        Self::PromoteByHand,
        Self::WipeStore,
        Self::RestoreStore,
        Self::LoseDirectory,
        Self::EditTtl,
    ];
}

impl World {
    /// An operator does one of the things of this run.
    pub(crate) fn operate(&mut self) {
        let (Some(interval), None) = (self.scenario.operator_interval, &self.healing) else { return };
        let wait = self.rng.within(interval / 3..interval * 2);
        self.after(wait, Event::Operator);
        let kinds = self.scenario.operators.clone();
        let kind = self.rng.pick(&kinds);
        let holder = self.holder();
        let member = self.rng.index(self.scenario.members);
        trace!(self, "operator: {kind:?} ({})", self.names[member]);
        self.damage.disturb(self.now);
        // Copies of the store are made at any time.
        if self.rng.chance(COPY_PERMILLE) {
            self.store.copy();
        }
        self.witness(&Moment::Operated(kind));
        match kind {
            OperatorKind::Switchover => self.ask_handover(holder, None, None),
            OperatorKind::SwitchoverTo => self.ask_handover(holder, Some(member), None),
            OperatorKind::Scheduled => {
                let due = self.now + self.rng.within(SECOND..15 * SECOND);
                self.ask_handover(holder, Some(member), Some(due));
            }
            OperatorKind::Failover => {
                // Whoever led last is the first that comes to mind.
                let last = self.monitor().and_then(|monitor| monitor.past().last_grant()).map(|grant| grant.member);
                let named = last.filter(|_| holder.is_none()).unwrap_or(member);
                self.ask_handover(None, Some(named), None);
            }
            OperatorKind::Pause => {
                self.set_paused(true);
                let wait = self.rng.within(3..30) * SECOND;
                self.after(wait, Event::Undo(Undo::Pause));
            }
            OperatorKind::Restart => {
                let start_within = self.rng.chance(300).then(|| Duration::from_secs(self.rng.within(1..4)));
                self.order(member, |orders| {
                    orders.restart = true;
                    orders.start_within = start_within;
                });
            }
            OperatorKind::Reinitialize => self.order(member, |orders| orders.reinitialize = true),
            OperatorKind::Terminate => self.order(member, |orders| orders.terminate = true),
            OperatorKind::StartByHand => self.start_by_hand(member),
            OperatorKind::PromoteByHand => self.promote_by_hand(member),
            OperatorKind::WipeStore => self.wipe_store(),
            OperatorKind::RestoreStore => self.restore_store(),
            OperatorKind::LoseDirectory => self.lose_directory(member),
            OperatorKind::EditTtl => self.edit_ttl(),
        }
    }

    /// Who holds the lease, as the store has it.
    pub(crate) fn holder(&mut self) -> Option<usize> {
        let name = self.store.decoded().cluster.leader.as_ref().map(|leader| leader.member.clone())?;
        self.index_of(&name)
    }

    fn ask_handover(&mut self, leader: Option<usize>, candidate: Option<usize>, due: Option<Time>) {
        if leader.is_none() && candidate.is_none() || !self.store_serves() {
            return;
        }
        let name = |member: Option<usize>| member.map(|member| &self.names[member]);
        let (leader, candidate): (Option<&MemberName>, Option<&MemberName>) = (name(leader), name(candidate));
        let text = layout::write_failover(leader, candidate, false, due);
        let put = Op::put(layout::FAILOVER, text);
        if self.store.transact(self.now, Txn::when(vec![Compare::absent(layout::FAILOVER)], vec![put])) {
            self.store_changed();
        }
    }

    fn order(&mut self, member: usize, change: impl FnOnce(&mut pgbaton_core::observation::Orders)) {
        let host = &mut self.hosts[member];
        if host.up && host.agent.alive {
            change(&mut host.agent.orders);
            self.wake_agent(member);
        }
    }

    /// Turns maintenance mode on or off for all members.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        trace!(self, "operator: {}", if paused { "pause" } else { "resume" });
        // What is starting now was started before the change.
        self.witness(&Moment::Changed);
        for member in 0..self.scenario.members {
            self.scenario.settings[member].paused = paused;
            self.hosts[member].agent.settings.paused = paused;
            self.wake_agent(member);
        }
        self.witness(&Moment::Changed);
    }

    fn start_by_hand(&mut self, member: usize) {
        let host = &self.hosts[member];
        let signal = host.postgres.data.as_ref().map(|data| data.standby_signal);
        let can = host.up && !host.frozen && !host.postgres.tree_alive() && host.postgres.incomplete.is_none();
        if let (true, Some(signal)) = (can, signal) {
            self.server_start(member, false, None, None, signal);
            self.operation_progress(member);
        }
    }

    fn promote_by_hand(&mut self, member: usize) {
        let host = &self.hosts[member];
        if host.up && !host.frozen && host.postgres.role() == Some(Role::Standby) {
            self.server_promote(member, None);
        }
    }

    /// A store that lists no hosts is lost only when each member knows all others, or somebody who knows them: whoever never saw the cluster
    /// there cannot know that it was made.
    fn wipe_store(&mut self) {
        let all = self.hosts.len();
        let informed = (0..all).all(|member| self.known_by_hearsay(member).len() == all);
        if self.scenario.external_store && !informed {
            return;
        }
        self.store.wipe(self.now);
        self.forget_requests();
        self.store_changed();
    }

    /// A member, those whom it knows, those whom they know, and so on.
    fn known_by_hearsay(&self, member: usize) -> BTreeSet<usize> {
        let mut known = BTreeSet::from([member]);
        let mut new = vec![member];
        while let Some(member) = new.pop() {
            new.extend(self.hosts[member].durable.members.iter().filter(|other| known.insert(**other)));
        }
        known
    }

    /// Only with all members there and knowing who led last, as docs/stores.md asks: one that was away since the copy was made, with the lease in
    /// it, cannot know that another one led, and leads on.
    fn restore_store(&mut self) {
        let newest = self.monitor().and_then(|monitor| monitor.past().last_grant()).map(|grant| grant.epoch);
        let there = |(member, host): (usize, &crate::host::Host)| {
            let now = host.clock.read(self.now);
            let lately = host.agent.view.as_of.is_some_and(|as_of| now.since(as_of) < LATELY);
            let informed = newest.is_none_or(|newest| host.durable.promised >= newest);
            host.up && !host.frozen && host.agent.alive && self.network.reaches_store(member) && lately && informed
        };
        if self.store.available && self.hosts.iter().enumerate().all(there) && self.store.restore(self.now) {
            self.forget_requests();
            self.store_changed();
        }
    }

    fn lose_directory(&mut self, member: usize) {
        // The only copy is not lost by the simulator: nothing could be checked after it.
        let whole = |host: &crate::host::Host| host.postgres.data.is_some() && host.postgres.incomplete.is_none();
        let others = self.hosts.iter().enumerate().filter(|(other, host)| *other != member && whole(host)).count();
        if others == 0 || !self.hosts[member].up {
            return;
        }
        self.kill_tree(member, "lost its directory");
        let postgres = &mut self.hosts[member].postgres;
        postgres.data = None;
        postgres.incomplete = None;
        self.wake_agent(member);
    }

    fn edit_ttl(&mut self) {
        let ttl = Duration::from_secs(self.rng.pick(&[5, 7, 10, 15, 20]));
        for member in 0..self.scenario.members {
            self.scenario.settings[member].ttl = ttl;
            self.hosts[member].agent.settings.ttl = ttl;
            self.wake_agent(member);
        }
    }
}
