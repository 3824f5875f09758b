//! What goes wrong, for how long, and how it ends.

use pgbaton_core::lease;

use crate::event::Event;
use crate::invariants::Moment;
use crate::network::Traffic;
use crate::time::{MILLISECOND, SECOND, Time, nanos};
use crate::world::{World, trace};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A member does not reach the store.
    CutStore,
    /// A member's agent does not reach the others.
    CutPeers,
    /// A member's replication is cut.
    CutReplication,
    /// A member is cut off from everything.
    CutAll,
    /// A member's way to the store is slow.
    SlowStore,
    /// The way to the store is slow, then cut.
    SlowThenCut,
    /// Answers of the store get lost after the change was made.
    Indeterminate,
    /// A member is not told of changes.
    WatchStall,
    /// The store elects another leader.
    StoreElection,
    /// The store has no leader for a long time.
    StoreOutage,
    /// Messages get lost.
    Loss,
    /// An agent crashes and is started again.
    AgentCrash,
    /// An agent is stopped for a while.
    AgentFreeze,
    /// A host is stopped for a while.
    HostFreeze,
    /// A host loses power.
    HostCrash,
    /// All processes of a server die.
    PostmasterCrash,
    /// The postmaster dies, backends go on.
    Orphans,
    /// A guard dies.
    GuardCrash,
    /// A server does not answer its agent, but serves clients.
    Silent,
    /// A silent server, then the store out of reach.
    SilentThenCut,
    /// A data directory cannot be read.
    Unreadable,
    /// Replay is paused on a member.
    ReplayPaused,
    /// Replication is slow.
    SlowReplication,
    /// A member's WAL receiver takes nothing more, and its connection stays.
    ReceiverHangs,
    /// The last checkpoint of a server that stops takes long.
    SlowStops,
    /// Rewinds fail.
    RewindsFail,
    /// Base backups fail.
    ClonesFail,
}

impl FaultKind {
    /// All of them.
    pub(crate) const ALL: [Self; 27] = [
        Self::CutStore,
        Self::CutPeers,
        Self::CutReplication,
        Self::CutAll,
        Self::SlowStore,
        Self::SlowThenCut,
        Self::Indeterminate,
        Self::WatchStall,
        Self::StoreElection,
        Self::StoreOutage,
        Self::Loss,
        Self::AgentCrash,
        Self::AgentFreeze,
        Self::HostFreeze,
        Self::HostCrash,
        Self::PostmasterCrash,
        Self::Orphans,
        Self::GuardCrash,
        Self::Silent,
        Self::SilentThenCut,
        Self::Unreadable,
        Self::ReplayPaused,
        Self::SlowReplication,
        Self::ReceiverHangs,
        Self::SlowStops,
        Self::RewindsFail,
        Self::ClonesFail,
    ];

    /// No leader may change because of it, whomever it hits.
    fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::CutPeers
                | Self::CutReplication
                | Self::WatchStall
                | Self::ReplayPaused
                | Self::SlowReplication
                | Self::RewindsFail
                | Self::ClonesFail
        )
    }

    /// It hits one member; when that one does not lead, no leader may change.
    fn hits_member(self) -> bool {
        matches!(
            self,
            Self::CutStore
                | Self::CutAll
                | Self::SlowStore
                | Self::SlowThenCut
                | Self::AgentCrash
                | Self::AgentFreeze
                | Self::PostmasterCrash
                | Self::Orphans
                | Self::GuardCrash
                | Self::Silent
                | Self::SilentThenCut
                | Self::Unreadable
                | Self::ReceiverHangs
        )
    }
}

/// How a fault, or an operator's act, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The member reaches the store again.
    StoreCut(usize),
    /// The slow way to the store is cut, for so long.
    SlowBecomesCut(usize, Time),
    /// The silent server's member loses the store, for so long.
    SilentBecomesCut(usize, Time),
    /// The member reaches the others again.
    MemberCut(usize, Traffic),
    /// The way to the store is fast again.
    Slow(usize),
    /// Answers arrive again.
    Indeterminate,
    /// Changes are told again.
    WatchStall,
    /// The store has a leader again.
    Store,
    /// No messages get lost.
    Loss,
    /// The agent is started again.
    Agent(usize),
    /// The agent goes on.
    AgentFreeze(usize),
    /// The host goes on.
    HostFreeze(usize),
    /// The host is booted.
    Host(usize),
    /// The server answers again.
    Silent(usize),
    /// The directory can be read again.
    Unreadable(usize),
    /// Replay goes on.
    Replay(usize),
    /// Replication is as fast as usual.
    Replication,
    /// The receiver goes on.
    Receiver(usize),
    /// Servers stop as fast as usual.
    Stops,
    /// Rewinds work again.
    Rewinds,
    /// Base backups work again.
    Clones,
    /// Maintenance mode ends.
    Pause,
}

/// Faults at work that belong to no host and no link.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// Answers of the store get lost.
    pub(crate) indeterminate: bool,
    /// This member is not told of changes.
    pub(crate) watch_stalled: Option<usize>,
    /// The last checkpoint of a server that stops takes long.
    pub(crate) stops_slow: bool,
    /// Rewinds fail.
    pub(crate) rewinds_fail: bool,
    /// Base backups fail.
    pub(crate) clones_fail: bool,
    /// When something last happened that may cost the leader its place.
    pub(crate) disturbed: Time,
}

impl Damage {
    /// Until then something is going on that may cost the leader its place.
    pub(crate) fn disturb(&mut self, until: Time) {
        self.disturbed = self.disturbed.max(until);
    }
}

impl World {
    /// One of the faults of this run begins.
    pub(crate) fn fault(&mut self) {
        if self.healing.is_some() {
            return;
        }
        let interval = self.scenario.fault_interval;
        let wait = self.rng.within(interval / 3..interval * 2);
        self.after(wait, Event::Fault);
        let kinds = self.scenario.faults.clone();
        let kind = self.rng.pick(&kinds);
        let holder = self.holder();
        let member = match holder {
            Some(holder) if self.rng.chance(600) => holder,
            _ => self.rng.index(self.scenario.members),
        };
        let lasts = self.draw_duration();
        trace!(self, "fault: {kind:?} ({}) for {} ms", self.names[member], lasts / MILLISECOND);
        let elsewhere = kind.hits_member() && holder.is_some_and(|holder| holder != member);
        if !kind.is_harmless() && !elsewhere {
            self.damage.disturb(self.now + 2 * lasts);
        }
        self.inflict(kind, member, lasts);
    }

    /// Short, about as long as a lease, or long: the boundaries are where it matters.
    fn draw_duration(&mut self) -> Time {
        let ttl = nanos(self.scenario.settings[0].ttl);
        match self.rng.within(0..10) {
            0..3 => self.rng.within(100 * MILLISECOND..2 * SECOND),
            3..7 => self.rng.within(ttl * 8 / 10..ttl * 13 / 10),
            _ => self.rng.within(ttl..3 * ttl),
        }
    }

    fn inflict(&mut self, kind: FaultKind, member: usize, lasts: Time) {
        match kind {
            FaultKind::CutStore => self.inflict_store_cut(member, lasts),
            FaultKind::CutPeers => self.inflict_cut(member, Traffic::Peers, lasts),
            FaultKind::CutReplication => self.inflict_cut(member, Traffic::Replication, lasts),
            FaultKind::CutAll => {
                self.inflict_store_cut(member, lasts);
                self.inflict_cut(member, Traffic::Peers, lasts);
                self.inflict_cut(member, Traffic::Replication, lasts);
            }
            FaultKind::SlowStore | FaultKind::SlowThenCut => {
                let longest = self.rng.within(500 * MILLISECOND..4 * SECOND);
                self.network.slow_store(member, longest);
                if kind == FaultKind::SlowStore {
                    self.after(lasts, Event::Undo(Undo::Slow(member)));
                } else {
                    let wait = self.rng.within(SECOND..8 * SECOND);
                    self.after(wait, Event::Undo(Undo::SlowBecomesCut(member, lasts + 10 * SECOND)));
                    self.damage.disturb(self.now + wait + lasts + 10 * SECOND);
                }
            }
            FaultKind::Indeterminate => {
                self.damage.indeterminate = true;
                self.after(lasts, Event::Undo(Undo::Indeterminate));
            }
            FaultKind::WatchStall => {
                self.damage.watch_stalled = Some(member);
                self.after(lasts, Event::Undo(Undo::WatchStall));
            }
            FaultKind::StoreElection => {
                self.store.available = false;
                let wait = self.rng.within(400 * MILLISECOND..3 * SECOND);
                self.after(wait, Event::Undo(Undo::Store));
            }
            FaultKind::StoreOutage => {
                self.store.available = false;
                self.after(lasts, Event::Undo(Undo::Store));
            }
            FaultKind::Loss => {
                self.network.loss = self.rng.within(20..300);
                self.after(lasts, Event::Undo(Undo::Loss));
            }
            _ => self.inflict_on_host(kind, member, lasts),
        }
    }

    fn inflict_on_host(&mut self, kind: FaultKind, member: usize, lasts: Time) {
        if !self.hosts[member].up || self.hosts[member].frozen {
            return;
        }
        match kind {
            FaultKind::AgentCrash => {
                self.agent_dies(member);
                let wait = lasts.min(self.rng.within(100 * MILLISECOND..6 * SECOND));
                self.after(wait, Event::Undo(Undo::Agent(member)));
            }
            FaultKind::AgentFreeze => {
                self.hosts[member].agent.frozen = true;
                self.after(lasts, Event::Undo(Undo::AgentFreeze(member)));
            }
            FaultKind::HostFreeze => {
                self.hosts[member].frozen = true;
                self.after(lasts, Event::Undo(Undo::HostFreeze(member)));
            }
            FaultKind::HostCrash => {
                self.power_fails(member);
                self.after(lasts, Event::Undo(Undo::Host(member)));
            }
            FaultKind::PostmasterCrash => self.postmaster_dies(member, None),
            FaultKind::Orphans => self.postmaster_dies(member, Some(lasts)),
            FaultKind::GuardCrash => {
                self.guard_dies(member);
                if self.rng.chance(500) {
                    self.agent_dies(member);
                    self.after(3 * SECOND, Event::Undo(Undo::Agent(member)));
                }
            }
            _ => self.inflict_on_server(kind, member, lasts),
        }
        self.witness(&Moment::Changed);
    }

    fn inflict_on_server(&mut self, kind: FaultKind, member: usize, lasts: Time) {
        match kind {
            FaultKind::Silent | FaultKind::SilentThenCut => {
                let host = &mut self.hosts[member];
                host.silent_since = Some(host.clock.read(self.now));
                if kind == FaultKind::Silent {
                    self.after(lasts, Event::Undo(Undo::Silent(member)));
                } else {
                    self.after(SECOND, Event::Undo(Undo::SilentBecomesCut(member, 2 * lasts)));
                    self.after(2 * lasts + 2 * SECOND, Event::Undo(Undo::Silent(member)));
                }
            }
            FaultKind::Unreadable => {
                self.hosts[member].unreadable = true;
                self.after(lasts, Event::Undo(Undo::Unreadable(member)));
            }
            FaultKind::ReplayPaused => {
                if let Some(running) = self.hosts[member].postgres.running_mut() {
                    running.replay_paused = true;
                }
                self.after(lasts, Event::Undo(Undo::Replay(member)));
            }
            FaultKind::SlowReplication => {
                self.network.replication_slowness = self.rng.within(100 * MILLISECOND..5 * SECOND);
                self.after(lasts, Event::Undo(Undo::Replication));
            }
            FaultKind::ReceiverHangs => {
                self.hosts[member].receiver_hangs = true;
                self.after(3 * lasts, Event::Undo(Undo::Receiver(member)));
            }
            FaultKind::SlowStops => {
                self.damage.stops_slow = true;
                self.after(lasts, Event::Undo(Undo::Stops));
            }
            FaultKind::RewindsFail => {
                self.damage.rewinds_fail = true;
                self.after(3 * lasts, Event::Undo(Undo::Rewinds));
            }
            FaultKind::ClonesFail => {
                self.damage.clones_fail = true;
                self.after(lasts, Event::Undo(Undo::Clones));
            }
            other => panic!("not a fault of a server: {other:?}"),
        }
    }

    fn inflict_store_cut(&mut self, member: usize, lasts: Time) {
        self.network.cut_store(member, true);
        self.after(lasts, Event::Undo(Undo::StoreCut(member)));
    }

    fn inflict_cut(&mut self, member: usize, traffic: Traffic, lasts: Time) {
        self.network.cut_member(member, traffic, true);
        self.after(lasts, Event::Undo(Undo::MemberCut(member, traffic)));
    }

    /// A fault ends. After the healing nothing is left to be undone.
    pub(crate) fn undo(&mut self, undo: Undo) {
        if self.healing.is_some() {
            return;
        }
        trace!(self, "fault: over: {undo:?}");
        self.apply_undo(undo);
    }

    fn apply_undo(&mut self, undo: Undo) {
        match undo {
            Undo::StoreCut(member) => self.network.cut_store(member, false),
            Undo::SlowBecomesCut(member, lasts) => {
                self.network.slow_store(member, 0);
                self.inflict_store_cut(member, lasts);
            }
            Undo::SilentBecomesCut(member, lasts) => self.inflict_store_cut(member, lasts),
            Undo::MemberCut(member, traffic) => self.network.cut_member(member, traffic, false),
            Undo::Slow(member) => self.network.slow_store(member, 0),
            Undo::Indeterminate => self.damage.indeterminate = false,
            Undo::WatchStall => self.damage.watch_stalled = None,
            Undo::Store => {
                if !self.store.available {
                    self.store.new_term(self.now);
                }
                self.schedule_expiry();
            }
            Undo::Loss => self.network.loss = 0,
            Undo::Agent(member) => self.after(0, Event::AgentStart { member }),
            Undo::AgentFreeze(member) => {
                self.hosts[member].agent.frozen = false;
                self.thaw(member);
            }
            Undo::HostFreeze(member) => self.thaw_host(member),
            Undo::Host(member) => {
                if !self.hosts[member].up {
                    self.power_returns(member);
                }
            }
            Undo::Silent(member) => self.hosts[member].silent_since = None,
            Undo::Unreadable(member) => self.hosts[member].unreadable = false,
            Undo::Replay(member) => {
                if let Some(running) = self.hosts[member].postgres.running_mut() {
                    running.replay_paused = false;
                    running.replayed = usize::MAX;
                }
            }
            Undo::Replication => self.network.replication_slowness = 0,
            Undo::Receiver(member) => {
                self.hosts[member].receiver_hangs = false;
                let life = self.hosts[member].postgres.life;
                self.soon(Event::Deliver { member, life });
            }
            Undo::Stops => self.damage.stops_slow = false,
            Undo::Rewinds => self.damage.rewinds_fail = false,
            Undo::Clones => self.damage.clones_fail = false,
            Undo::Pause => self.set_paused(false),
        }
    }

    /// The host goes on: what its guard had to do long ago is done first.
    pub(crate) fn thaw_host(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        if !std::mem::replace(&mut host.frozen, false) || !host.up {
            return;
        }
        let settings = &host.agent.settings;
        let now = host.clock.read(self.now);
        let renewing = host.agent.alive && host.agent.renewing;
        let due = host
            .guard
            .armed
            .is_some_and(|armed| lease::expired(now, armed.deadline + settings.kill_time, renewing, settings.bugs));
        if due && host.guard.alive {
            self.kill_tree(member, "killed by its guard after the freeze");
        }
        self.thaw(member);
        self.witness(&Moment::Changed);
    }

    /// All faults are over, on all hosts but those in `left_out`, which are off for good.
    pub(crate) fn heal_everything(&mut self, left_out: Option<usize>) {
        self.network.heal();
        let disturbed = self.damage.disturbed;
        self.damage = Damage { disturbed, ..Damage::default() };
        if !self.store.available {
            self.store.new_term(self.now);
        }
        self.schedule_expiry();
        if self.scenario.settings[0].paused {
            self.set_paused(false);
        }
        for member in 0..self.scenario.members {
            if left_out == Some(member) {
                self.power_fails(member);
                continue;
            }
            self.thaw_host(member);
            for undo in [
                Undo::Host(member),
                Undo::Silent(member),
                Undo::Unreadable(member),
                Undo::Replay(member),
                Undo::Receiver(member),
            ] {
                self.apply_undo(undo);
            }
            self.apply_undo(Undo::AgentFreeze(member));
            let host = &mut self.hosts[member];
            if !host.guard.alive {
                host.guard.alive = true;
            }
            if !host.agent.alive {
                self.after(SECOND, Event::AgentStart { member });
            }
        }
    }
}
