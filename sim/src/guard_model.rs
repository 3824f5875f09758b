use pgbaton_core::lease;
use pgbaton_types::{BootTime, Epoch};

use crate::event::Event;
use crate::invariants::Moment;
use crate::time::{MILLISECOND, SECOND, Time, nanos};
use crate::world::{World, trace};

/// The process that owns the postmaster and kills it at the deadline.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// It runs.
    pub(crate) alive: bool,
    /// The deadline that it enforces.
    pub(crate) armed: Option<Armed>,
    serial: u64,
}

/// A deadline that is enforced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Armed {
    /// Of this reign.
    pub(crate) epoch: Epoch,
    /// By the host's clock.
    pub(crate) deadline: BootTime,
}

impl Default for Guard {
    fn default() -> Self {
        Self { alive: true, armed: None, serial: 0 }
    }
}

impl World {
    /// The agent hands a deadline to the guard: a later one of the same reign, or one of a newer reign.
    pub(crate) fn guard_arm(&mut self, member: usize, epoch: Epoch, deadline: BootTime) {
        let host = &mut self.hosts[member];
        let newer = host
            .guard
            .armed
            .is_none_or(|armed| epoch > armed.epoch || epoch == armed.epoch && deadline > armed.deadline);
        if !host.guard.alive || !newer {
            return;
        }
        host.guard.armed = Some(Armed { epoch, deadline });
        host.guard.serial += 1;
        let serial = host.guard.serial;
        let wait = host.clock.when(deadline).saturating_sub(self.now);
        self.after(wait, Event::GuardTimer { member, serial });
    }

    /// The guard enforces no deadline any more.
    pub(crate) fn guard_disarm(&mut self, member: usize) {
        let guard = &mut self.hosts[member].guard;
        guard.armed = None;
        guard.serial += 1;
    }

    /// A deadline has come: unless it was put off, the tree is killed, without asking anyone.
    pub(crate) fn guard_timer(&mut self, member: usize, serial: u64) {
        let host = &self.hosts[member];
        let Some(armed) = host.guard.armed.filter(|_| host.guard.serial == serial && host.guard.alive) else { return };
        let settings = &host.agent.settings;
        let renewing = host.agent.alive && host.agent.renewing;
        if !lease::expired(host.clock.read(self.now), armed.deadline, renewing, settings.bugs) {
            self.after(20 * MILLISECOND, Event::GuardTimer { member, serial });
            return;
        }
        if !host.postgres.tree_alive() {
            return;
        }
        // K is the bound for all this; most of it is hardly ever used.
        let kill_time = nanos(settings.kill_time);
        let late = host.clock.read(self.now).since(armed.deadline) > settings.kill_time / 10;
        let wait = if late { 0 } else { self.rng.within(0..kill_time * 9 / 10) };
        trace!(self, "{}: guard: the deadline of {} has come", self.names[member], armed.epoch);
        self.after(wait, Event::GuardKill { member, serial });
    }

    /// The guard's kill takes effect.
    pub(crate) fn guard_kill(&mut self, member: usize, serial: u64) {
        let guard = &self.hosts[member].guard;
        if guard.alive && guard.serial == serial {
            self.kill_tree(member, "killed by its guard");
        }
    }

    /// The guard dies: the other half of it kills the tree.
    pub(crate) fn guard_dies(&mut self, member: usize) {
        let guard = &mut self.hosts[member].guard;
        guard.alive = false;
        guard.armed = None;
        guard.serial += 1;
        self.kill_tree(member, "killed with its guard");
        let wait: Time = self.rng.within(SECOND / 2..3 * SECOND);
        self.after(wait, Event::GuardBack { member });
    }

    /// The guard is started again.
    pub(crate) fn guard_back(&mut self, member: usize) {
        self.hosts[member].guard.alive = true;
        trace!(self, "{}: guard: started again", self.names[member]);
        self.wake_agent(member);
        self.witness(&Moment::Changed);
    }
}
