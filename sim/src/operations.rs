//! Operations: work of an agent that takes time, can fail, and can be cut off in the middle.

use std::collections::BTreeSet;

use pgbaton_core::observation::{ControlState, Finished, Orders, Outcome, Work};
use pgbaton_core::{OperationKind, StopMode};
use pgbaton_types::{BootTime, SystemId, TimelineHistory, TimelineId};

use crate::event::Event;
use crate::network::Traffic;
use crate::postgres_model::{Data, Process, Role};
use crate::time::{MILLISECOND, SECOND, Time, nanos};
use crate::wal::Wal;
use crate::world::{World, trace};

/// An operation that was begun.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    /// What.
    pub(crate) kind: OperationKind,
    /// Since when.
    pub(crate) since: BootTime,
    serial: u64,
    /// What it waits for is a life of the server that it began itself.
    life: u64,
}

/// How long a fast stop may take before the tree is killed.
const STOP_PATIENCE: Time = 8 * SECOND;
/// How long a standby is given to stream from its new upstream.
const FOLLOW_PATIENCE: Time = 3 * SECOND;

impl World {
    /// Begins an operation.
    pub(crate) fn operation_begin(&mut self, member: usize, kind: OperationKind) {
        let host = &mut self.hosts[member];
        let since = host.clock.read(self.now);
        host.agent.operation_serial += 1;
        let serial = host.agent.operation_serial;
        host.agent.finished = None;
        host.agent.operation = Some(Begun { kind: kind.clone(), since, serial, life: host.postgres.life });
        let reads_disk = !matches!(kind, OperationKind::Stop { .. } | OperationKind::Follow { .. });
        if reads_disk && self.hosts[member].unreadable {
            return self.operation_end(member, Outcome::Failed("Input/output error".to_owned()));
        }
        match kind {
            OperationKind::Initdb => self.begin_work(member, Some(Work::Bootstrap), SECOND / 2, 2 * SECOND),
            OperationKind::FinishBootstrap { .. } => self.begin_work(member, None, 50 * MILLISECOND, 300 * MILLISECOND),
            OperationKind::Quarantine { .. } => self.begin_work(member, None, MILLISECOND, 20 * MILLISECOND),
            OperationKind::Clone { .. } => {
                let longest = self.scenario.copy_longest;
                self.begin_work(member, Some(Work::Clone), SECOND / 2, longest);
            }
            OperationKind::Rewind { .. } => {
                let longest = self.scenario.copy_longest / 2;
                self.begin_work(member, Some(Work::Rewind), SECOND / 3, longest);
            }
            OperationKind::RecoverAlone => self.begin_start(member, None, None),
            OperationKind::StartStandby { upstream } => {
                let upstream = upstream.and_then(|name| self.index_of(&name));
                self.begin_start(member, None, upstream);
            }
            OperationKind::StartPrimary { epoch } => self.begin_start(member, Some(epoch), None),
            OperationKind::Stop { mode } => self.begin_stop(member, mode),
            OperationKind::Promote { epoch, timeline, .. } => self.begin_promotion(member, epoch, timeline),
            OperationKind::Follow { upstream } => self.begin_follow(member, &upstream),
        }
    }

    fn begin_work(&mut self, member: usize, work: Option<Work>, shortest: Time, longest: Time) {
        if work.is_some() {
            self.hosts[member].postgres.incomplete = work;
        }
        if matches!(work, Some(Work::Bootstrap | Work::Clone)) {
            self.hosts[member].postgres.data = None;
        }
        let wait = self.rng.within(shortest..longest.max(shortest + 1));
        self.step_after(member, wait);
    }

    fn step_after(&mut self, member: usize, wait: Time) {
        let agent = &self.hosts[member].agent;
        let (life, serial) = (agent.life, agent.operation_serial);
        self.after(wait, Event::OperationStep { member, life, serial });
    }

    fn begin_start(&mut self, member: usize, reign: Option<pgbaton_types::Epoch>, upstream: Option<usize>) {
        let host = &self.hosts[member];
        if host.postgres.tree_alive() || host.postgres.data.is_none() || !host.guard.alive {
            let why = "the server could not be started".to_owned();
            return self.operation_end(member, Outcome::Failed(why));
        }
        self.server_start(member, true, reign, upstream, reign.is_none());
        self.note_life(member);
    }

    fn note_life(&mut self, member: usize) {
        let life = self.hosts[member].postgres.life;
        if let Some(operation) = &mut self.hosts[member].agent.operation {
            operation.life = life;
        }
    }

    fn begin_stop(&mut self, member: usize, mode: StopMode) {
        if mode == StopMode::Kill {
            let wait = self.rng.within(3 * MILLISECOND..60 * MILLISECOND);
            return self.step_after(member, wait);
        }
        let handover = mode == StopMode::Handover;
        if handover {
            self.take_address(member);
        }
        self.server_stop(member, handover);
        self.operation_progress(member);
        let patience = if handover { nanos(self.hosts[member].agent.settings.retry_timeout) } else { STOP_PATIENCE };
        self.step_after(member, patience);
    }

    fn begin_promotion(&mut self, member: usize, epoch: pgbaton_types::Epoch, timeline: TimelineId) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.role() == Some(Role::Promoting) {
            // Somebody before began it: asking again changes nothing, and it cannot be taken back.
            if let Some(running) = postgres.running_mut() {
                running.reign = Some(epoch);
                running.promoting = true;
            }
            return self.step_after(member, 60 * SECOND);
        }
        if postgres.role() != Some(Role::Standby) {
            return self.operation_end(member, Outcome::Failed("the server is not a standby".to_owned()));
        }
        if let Some(data) = &mut postgres.data {
            // History files, real or placeholders, for all numbers below the reserved one.
            let next = data.history.timeline().next().0;
            data.known_timelines.extend((next..timeline.0).map(TimelineId));
        }
        self.server_promote(member, Some(epoch));
        self.note_life(member);
        self.step_after(member, 60 * SECOND);
    }

    fn begin_follow(&mut self, member: usize, upstream: &pgbaton_types::MemberName) {
        let Some(upstream) = self.index_of(upstream) else { return };
        let postgres = &mut self.hosts[member].postgres;
        let life = postgres.life;
        if let Some(running) = postgres.running_mut() {
            running.upstream = Some(upstream);
            running.streaming = false;
        }
        self.soon(Event::Connect { member, life });
        self.step_after(member, FOLLOW_PATIENCE);
    }

    /// The operation is given up: what it began in the server goes on by itself, what it copied stays unfinished.
    pub(crate) fn operation_cancel(&mut self, member: usize) {
        if self.hosts[member].agent.operation.is_some() {
            self.operation_end(member, Outcome::Failed("given up".to_owned()));
        }
    }

    /// The server did something: perhaps it was what an operation waits for.
    pub(crate) fn operation_progress(&mut self, member: usize) {
        let host = &self.hosts[member];
        let Some(begun) = host.agent.operation.as_ref().filter(|_| host.agent.alive) else { return };
        let postgres = &host.postgres;
        let role = postgres.role();
        let gone = !postgres.tree_alive();
        let ended = gone || postgres.life != begun.life || matches!(postgres.process, Process::Dying { .. });
        let failed = || Some(Outcome::Failed("the server has ended".to_owned()));
        let outcome = match &begun.kind {
            OperationKind::Stop { mode: StopMode::Handover } if matches!(role, Some(Role::ShutDown)) => {
                let data = postgres.data.as_ref();
                let checkpoint = data.and_then(|data| data.wal.last_as_checkpoint(data.system_id));
                Some(checkpoint.map_or(Outcome::Done, Outcome::ShutDown))
            }
            OperationKind::Stop { mode: StopMode::Handover } if gone => failed(),
            OperationKind::Stop { .. } => gone.then_some(Outcome::Done),
            OperationKind::StartStandby { .. } | OperationKind::StartPrimary { .. } | OperationKind::Follow { .. }
                if ended =>
            {
                failed()
            }
            OperationKind::StartStandby { .. } => matches!(role, Some(Role::Standby)).then_some(Outcome::Done),
            OperationKind::StartPrimary { .. } => matches!(role, Some(Role::Primary)).then_some(Outcome::Done),
            OperationKind::Follow { .. } => {
                postgres.running().is_some_and(|running| running.streaming).then_some(Outcome::Done)
            }
            OperationKind::Promote { .. } if ended => failed(),
            OperationKind::Promote { timeline, .. } => matches!(role, Some(Role::Primary)).then(|| {
                let made = postgres.data.as_ref().map(|data| data.history.timeline());
                if made == Some(*timeline) { Outcome::Done } else { Outcome::Failed(format!("timeline {made:?}")) }
            }),
            OperationKind::RecoverAlone => return self.recover_alone(member, role, gone),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.operation_end(member, outcome);
        }
    }

    fn recover_alone(&mut self, member: usize, role: Option<Role>, gone: bool) {
        if role == Some(Role::Standby) {
            self.server_stop(member, false);
        } else if gone {
            let clean = self.hosts[member].postgres.data.as_ref().map(|data| data.state);
            let outcome = match clean {
                Some(ControlState::ShutDownInRecovery) => Outcome::Done,
                _ => Outcome::Failed("the server has ended".to_owned()),
            };
            self.operation_end(member, outcome);
        }
    }

    /// The time for an operation's work, or for its patience, is over.
    pub(crate) fn operation_step(&mut self, member: usize, life: u64, serial: u64) {
        let agent = &self.hosts[member].agent;
        let Some(begun) = agent.operation.clone().filter(|begun| begun.serial == serial) else { return };
        if !agent.alive || agent.life != life {
            return;
        }
        match begun.kind {
            OperationKind::Stop { mode: StopMode::Handover } => {
                self.operation_end(member, Outcome::Failed("the server is still in production".to_owned()));
            }
            OperationKind::Stop { mode } => {
                self.kill_tree(member, "is killed");
                // Nothing was left to kill, or the kill itself has ended the operation.
                if self.operation_kind(member) == Some(&OperationKind::Stop { mode }) {
                    self.operation_end(member, Outcome::Done);
                }
            }
            OperationKind::Initdb => self.initdb_done(member),
            OperationKind::FinishBootstrap { .. } => {
                let postgres = &mut self.hosts[member].postgres;
                let up = postgres.role() == Some(Role::Primary);
                if up {
                    postgres.incomplete = None;
                }
                self.operation_end(member, if up { Outcome::Done } else { Outcome::Failed("no server".to_owned()) });
            }
            OperationKind::Quarantine { .. } => {
                let postgres = &mut self.hosts[member].postgres;
                postgres.data = None;
                postgres.incomplete = None;
                self.operation_end(member, Outcome::Done);
            }
            OperationKind::Clone { from, .. } => self.copy_done(member, &from, Work::Clone),
            OperationKind::Rewind { from, .. } => self.copy_done(member, &from, Work::Rewind),
            OperationKind::Follow { .. } | OperationKind::Promote { .. } => {
                self.operation_end(member, Outcome::Failed("it took too long".to_owned()));
            }
            OperationKind::RecoverAlone | OperationKind::StartStandby { .. } | OperationKind::StartPrimary { .. } => {}
        }
    }

    fn initdb_done(&mut self, member: usize) {
        let system_id = SystemId(self.new_id() >> 1);
        let id = self.new_id();
        let mut wal = Wal::default();
        wal.append(TimelineId::FIRST, 3_000_000, id);
        let history = TimelineHistory::root(TimelineId::FIRST);
        let rewindable = self.scenario.settings[0].use_pg_rewind;
        self.hosts[member].postgres.data = Some(Data {
            system_id,
            wal,
            state: ControlState::ShutDown,
            control_history: history.clone(),
            history,
            rewindable,
            known_timelines: BTreeSet::from([TimelineId::FIRST]),
            standby_signal: false,
        });
        self.operation_end(member, Outcome::Done);
    }

    /// A base backup or a rewind has come to its end; the source must be there to the last.
    fn copy_done(&mut self, member: usize, from: &pgbaton_types::MemberName, work: Work) {
        let Some(source) = self.index_of(from) else { return };
        let reachable = self.network.reaches(member, source, Traffic::Replication);
        let other = &self.hosts[source];
        let up = other.up && !other.frozen && other.postgres.role() == Some(Role::Primary);
        let fails = match work {
            Work::Rewind => self.damage.rewinds_fail,
            _ => self.damage.clones_fail,
        };
        if !up || !reachable || fails {
            // Every other rewind that fails does so while it looks, before it touches anything.
            if work == Work::Rewind && self.rng.chance(500) {
                self.hosts[member].postgres.incomplete = None;
            }
            return self.operation_end(member, Outcome::Failed(format!("{from} went away")));
        }
        let Some(copied) = other.postgres.data.clone() else { return };
        let behind = work == Work::Rewind && !other.postgres.running().is_some_and(|running| running.checkpointed);
        let postgres = &mut self.hosts[member].postgres;
        if work == Work::Rewind {
            let clean = postgres.data.as_ref().is_some_and(|data| {
                data.rewindable
                    && data.system_id == copied.system_id
                    && matches!(data.state, ControlState::ShutDown | ControlState::ShutDownInRecovery)
            });
            if !clean {
                // `pg_rewind` looks before it touches anything.
                postgres.incomplete = None;
                return self.operation_end(member, Outcome::Failed("target must be shut down cleanly".to_owned()));
            }
        }
        postgres.incomplete = None;
        if !behind {
            // A source whose control file is still on the old timeline: "no rewind required".
            let state = ControlState::InRecovery;
            let control_history = copied.history.clone();
            postgres.data = Some(Data { state, standby_signal: true, control_history, ..copied });
        }
        self.operation_end(member, Outcome::Done);
    }

    fn operation_end(&mut self, member: usize, outcome: Outcome) {
        let now = self.now;
        let host = &mut self.hosts[member];
        let Some(begun) = host.agent.operation.take() else { return };
        trace!(self, "{}: agent: {}: {outcome:?}", self.names[member], begun.kind);
        let host = &mut self.hosts[member];
        let done = !matches!(outcome, Outcome::Failed(_));
        let orders: &mut Orders = &mut host.agent.orders;
        match begun.kind {
            OperationKind::StartStandby { .. } | OperationKind::StartPrimary { .. } => orders.restart = false,
            OperationKind::Clone { .. } if done => orders.reinitialize = false,
            _ => {}
        }
        host.agent.finished = Some(Finished { kind: begun.kind, at: host.clock.read(now), outcome });
        self.wake_agent(member);
    }
}
