//! What servers do by themselves once they were told: recover, stream, shut down, die.

use pgbaton_core::OperationKind;
use pgbaton_core::observation::ControlState;
use pgbaton_types::Epoch;

use crate::event::Event;
use crate::invariants::Moment;
use crate::network::Traffic;
use crate::postgres_model::{Process, Role};
use crate::time::{MILLISECOND, SECOND, Time};
use crate::world::{World, trace};

/// How often a WAL receiver that has no upstream tries again (findings on `wal_retrieve_retry_interval`: 500 ms or less).
const RETRY_INTERVAL: u64 = 500 * MILLISECOND;
/// The longest that the last checkpoint takes on a slow disk: longer than any handover waits.
const SLOW_STOP: Time = 6 * SECOND;
/// What the sockets between a sender and a receiver hold: little, so that they are often full.
const SOCKET_BYTES: u64 = 16 << 10;

impl World {
    /// A postmaster is started. `reign`: it shall be a primary in that reign.
    pub(crate) fn server_start(
        &mut self,
        member: usize,
        guarded: bool,
        reign: Option<Epoch>,
        upstream: Option<usize>,
        signal: bool,
    ) {
        let now = self.now;
        let host = &mut self.hosts[member];
        let clean = host
            .postgres
            .data
            .as_ref()
            .is_some_and(|data| matches!(data.state, ControlState::ShutDown | ControlState::ShutDownInRecovery));
        host.postgres.started(now, guarded, signal, upstream);
        if let Some(running) = host.postgres.running_mut() {
            running.reign = reign;
        }
        let life = host.postgres.life;
        let longest = if clean { 60 * MILLISECOND } else { self.scenario.recovery_longest };
        let wait = 20 * MILLISECOND + self.up_to(longest);
        self.after(wait, Event::ServerUp { member, life });
    }

    /// The recovery has ended: the server is a standby, or accepts writes.
    pub(crate) fn server_up(&mut self, member: usize, life: u64) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.life != life || postgres.role() != Some(Role::Starting) {
            return;
        }
        postgres.recovered();
        let role = postgres.role();
        trace!(self, "{}: server: is up as {:?}", self.names[member], role);
        if role == Some(Role::Primary) {
            self.note_strange(member);
            self.upstream_is_up(member);
        } else {
            self.soon(Event::Connect { member, life });
        }
        self.operation_progress(member);
        self.wake_agent(member);
        self.witness(&Moment::Changed);
    }

    /// The promotion is complete: the server accepts writes on a new timeline.
    pub(crate) fn server_promoted(&mut self, member: usize, life: u64) {
        let id = self.new_id();
        let receiver_hangs = self.hosts[member].receiver_hangs;
        let postgres = &mut self.hosts[member].postgres;
        if postgres.life != life || postgres.role() != Some(Role::Promoting) {
            return;
        }
        if receiver_hangs {
            // A promotion waits for its receiver's end.
            return self.after(RETRY_INTERVAL, Event::ServerPromoted { member, life });
        }
        let Some(timeline) = postgres.promoted(id) else { return };
        trace!(self, "{}: server: promoted to timeline {timeline}", self.names[member]);
        self.note_strange(member);
        let wait = self.scenario.checkpoint_longest;
        let wait = self.up_to(wait);
        self.after(wait, Event::Checkpoint { member, life });
        self.witness(&Moment::Promoted { member, timeline });
        self.upstream_is_up(member);
        self.operation_progress(member);
        self.wake_agent(member);
        self.witness(&Moment::Changed);
    }

    fn note_strange(&mut self, member: usize) {
        let now = self.now;
        let host = &mut self.hosts[member];
        let strange = host.postgres.accepts_writes() && host.postgres.reign().is_none();
        host.strange_since = strange.then_some(now);
    }

    fn upstream_is_up(&mut self, member: usize) {
        for other in 0..self.scenario.members {
            if self.hosts[other].postgres.running().is_some_and(|running| running.upstream == Some(member)) {
                let life = self.hosts[other].postgres.life;
                self.soon(Event::Connect { member: other, life });
            }
        }
    }

    /// The first checkpoint after a promotion.
    pub(crate) fn server_checkpoint(&mut self, member: usize, life: u64) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.life == life && postgres.role() == Some(Role::Primary) {
            postgres.checkpointed();
        }
    }

    /// Begins a fast shutdown: no client can write from here on.
    pub(crate) fn server_stop(&mut self, member: usize, handover: bool) {
        let postgres = &mut self.hosts[member].postgres;
        let life = postgres.life;
        match &mut postgres.process {
            Process::Running(running) if matches!(running.role, Role::Stopping | Role::ShutDown) => {}
            Process::Running(running) => {
                let never_up = running.role == Role::Starting;
                running.role = Role::Stopping;
                running.upstream = None;
                let checkpoint = if self.damage.stops_slow { SLOW_STOP } else { 20 * MILLISECOND };
                let wait = 20 * MILLISECOND + self.up_to(checkpoint) + self.held_up(member, handover);
                let event =
                    if never_up { Event::ServerExit { member, life } } else { Event::ServerShutDown { member, life } };
                self.after(wait, event);
                self.witness(&Moment::Changed);
            }
            Process::Dying { .. } => self.kill_tree(member, "its remains are killed"),
            Process::Stopped { .. } => {}
        }
    }

    /// How long a stop waits for its senders. One whose standby takes nothing holds it up until the agent ends it, which it does at
    /// once when clients wait (`operations::senders` of the agent).
    fn held_up(&mut self, member: usize, handover: bool) -> Time {
        let end = self.hosts[member].postgres.end();
        let full = self.hosts.iter().any(|other| {
            let running = other.postgres.running();
            let streams = running.is_some_and(|running| running.streaming && running.upstream == Some(member));
            other.receiver_hangs && streams && end.bytes_ahead_of(other.postgres.end()) > SOCKET_BYTES
        });
        if !full {
            return 0;
        }
        let ended = if handover { 200 * MILLISECOND } else { 2 * SECOND };
        ended + self.up_to(60 * MILLISECOND)
    }

    /// The control file says "shut down". What streams still gets the last record.
    pub(crate) fn server_shut_down(&mut self, member: usize, life: u64) {
        let id = self.new_id();
        let postgres = &mut self.hosts[member].postgres;
        if postgres.life != life || postgres.role() != Some(Role::Stopping) {
            return;
        }
        postgres.shut_down(id);
        trace!(self, "{}: server: shut down at {}", self.names[member], self.hosts[member].postgres.end());
        self.ship_from(member);
        let longest = self.scenario.exit_longest;
        // Senders stay until their standbys have the last record.
        let sending = (0..self.scenario.members).any(|other| {
            let running = self.hosts[other].postgres.running();
            running.is_some_and(|running| running.streaming && running.upstream == Some(member))
        });
        let shortest = if sending { 25 * MILLISECOND } else { 2 * MILLISECOND };
        let wait = shortest + self.up_to(longest);
        self.after(wait, Event::ServerExit { member, life });
        self.operation_progress(member);
        self.wake_agent(member);
    }

    /// The last process of a server is gone.
    pub(crate) fn server_exit(&mut self, member: usize, life: u64) {
        let stopping = matches!(self.hosts[member].postgres.role(), Some(Role::Stopping | Role::ShutDown));
        let dying = matches!(self.hosts[member].postgres.process, Process::Dying { .. });
        if self.hosts[member].postgres.life == life && (stopping || dying) {
            self.kill_tree(member, "has ended");
        }
    }

    /// The postmaster dies; what it had started may go on for a while.
    pub(crate) fn postmaster_dies(&mut self, member: usize, orphans_for: Option<u64>) {
        let now = self.now;
        let postgres = &mut self.hosts[member].postgres;
        let Process::Running(running) = &postgres.process else { return };
        let Some(lasts) = orphans_for else { return self.kill_tree(member, "crashed") };
        let committing = running.role == Role::Primary;
        postgres.process = Process::Dying { since: now, committing, reign: running.reign, guarded: running.guarded };
        postgres.life += 1;
        let life = postgres.life;
        trace!(self, "{}: server: the postmaster died, orphans are left", self.names[member]);
        self.after(lasts, Event::ServerExit { member, life });
        self.cut_downstream(member);
        self.operation_progress(member);
        self.wake_agent(member);
        self.witness(&Moment::Changed);
    }

    /// All processes are gone at once.
    pub(crate) fn kill_tree(&mut self, member: usize, why: &str) {
        let now = self.now;
        let host = &mut self.hosts[member];
        if !host.postgres.tree_alive() {
            return;
        }
        host.postgres.killed(now);
        host.strange_since = None;
        trace!(self, "{}: server: {why}", self.names[member]);
        self.cut_downstream(member);
        self.operation_progress(member);
        self.wake_agent(member);
        self.witness(&Moment::Changed);
    }

    fn cut_downstream(&mut self, member: usize) {
        for other in 0..self.scenario.members {
            let postgres = &mut self.hosts[other].postgres;
            let life = postgres.life;
            let Some(running) = postgres.running_mut().filter(|running| running.upstream == Some(member)) else {
                continue;
            };
            if std::mem::replace(&mut running.streaming, false) {
                self.after(RETRY_INTERVAL, Event::Connect { member: other, life });
            }
        }
    }

    /// The WAL receiver of a standby tries to connect.
    pub(crate) fn connect(&mut self, member: usize, life: u64) {
        let postgres = &self.hosts[member].postgres;
        let Some(running) = postgres.running().filter(|_| postgres.life == life) else { return };
        let (Role::Standby | Role::Promoting, Some(upstream), false) =
            (running.role, running.upstream, running.streaming)
        else {
            return;
        };
        let source = &self.hosts[upstream];
        let up = source.up && !source.frozen && source.postgres.role() == Some(Role::Primary);
        let reachable = self.network.reaches(member, upstream, Traffic::Replication);
        if !up || !reachable || self.hosts[member].receiver_hangs || !postgres.can_stream_from(&source.postgres) {
            self.after(RETRY_INTERVAL, Event::Connect { member, life });
            return;
        }
        if let Some(running) = self.hosts[member].postgres.running_mut() {
            running.streaming = true;
        }
        trace!(self, "{}: server: streams from {}", self.names[member], self.names[upstream]);
        let wait = self.network.replication_delay(&mut self.rng);
        self.after(wait, Event::Deliver { member, life });
        self.operation_progress(member);
        self.wake_agent(member);
    }

    /// New WAL is sent to all that stream from this server.
    pub(crate) fn ship_from(&mut self, member: usize) {
        for other in 0..self.scenario.members {
            let postgres = &self.hosts[other].postgres;
            if postgres.running().is_some_and(|running| running.streaming && running.upstream == Some(member)) {
                let life = postgres.life;
                let wait = self.network.replication_delay(&mut self.rng);
                self.after(wait, Event::Deliver { member: other, life });
            }
        }
    }

    /// WAL arrives at a standby and is flushed.
    pub(crate) fn deliver(&mut self, member: usize, life: u64) {
        let postgres = &self.hosts[member].postgres;
        let Some(running) = postgres.running().filter(|_| postgres.life == life) else { return };
        let (Some(upstream), true) = (running.upstream, running.streaming) else { return };
        if !matches!(running.role, Role::Standby | Role::Promoting) || self.hosts[member].receiver_hangs {
            return;
        }
        let source = &self.hosts[upstream];
        let sends = matches!(source.postgres.role(), Some(Role::Primary | Role::Stopping | Role::ShutDown));
        let reachable = self.network.reaches(member, upstream, Traffic::Replication);
        if !source.up || source.frozen || !sends || !reachable || !postgres.can_stream_from(&source.postgres) {
            if let Some(running) = self.hosts[member].postgres.running_mut() {
                running.streaming = false;
            }
            self.after(RETRY_INTERVAL, Event::Connect { member, life });
            return;
        }
        let (receiver, sender) = two(&mut self.hosts, member, upstream);
        receiver.postgres.receive_from(&sender.postgres);
        self.witness(&Moment::Streamed { member, upstream });
    }

    /// Begins a promotion.
    pub(crate) fn server_promote(&mut self, member: usize, reign: Option<Epoch>) {
        let longest = self.scenario.promotion_longest;
        let wait = 20 * MILLISECOND + self.up_to(longest);
        let postgres = &mut self.hosts[member].postgres;
        let life = postgres.life;
        let Some(running) = postgres.running_mut().filter(|running| running.role == Role::Standby) else { return };
        running.role = Role::Promoting;
        running.reign = reign;
        running.by_hand = reign.is_none();
        running.promoting = reign.is_some();
        running.streaming = false;
        running.upstream = None;
        running.replay_paused = false;
        running.replayed = usize::MAX;
        self.after(wait, Event::ServerPromoted { member, life });
    }

    /// The host loses power.
    pub(crate) fn power_fails(&mut self, member: usize) {
        trace!(self, "{}: the host is down", self.names[member]);
        self.agent_dies(member);
        self.kill_tree(member, "is gone with its host");
        self.guard_disarm(member);
        let host = &mut self.hosts[member];
        host.up = false;
        host.frozen = false;
        host.address = None;
        host.silent_since = None;
        host.deferred.clear();
    }

    /// The host is booted: guard and agent start; the server does not by itself.
    pub(crate) fn power_returns(&mut self, member: usize) {
        trace!(self, "{}: the host is up", self.names[member]);
        let host = &mut self.hosts[member];
        host.up = true;
        host.guard.alive = true;
        let wait = self.rng.within(SECOND / 2..2 * SECOND);
        self.after(wait, Event::AgentStart { member });
    }

    /// Whether an operation that is under way needs the server of this host to be started by it.
    pub(crate) fn operation_kind(&self, member: usize) -> Option<&OperationKind> {
        self.hosts[member].agent.operation.as_ref().map(|operation| &operation.kind)
    }
}

fn two<T>(items: &mut [T], one: usize, other: usize) -> (&mut T, &T) {
    assert_ne!(one, other, "the same host twice");
    if one < other {
        let (left, right) = items.split_at_mut(other);
        (&mut left[one], &right[0])
    } else {
        let (left, right) = items.split_at_mut(one);
        (&mut right[0], &left[other])
    }
}
