//! What comes of an agent's decisions: immediate actions here, operations in `operations`.

use pgbaton_core::execution::Stale;
use pgbaton_core::observation::Initialize;
use pgbaton_core::{Action, CHECKPOINT_TIME};
use pgbaton_store::{Compare, Op, Txn};
use pgbaton_types::{BootTime, Revision};

use crate::event::{Event, Purpose, Question};
use crate::invariants::Moment;
use crate::layout;
use crate::store_model::{Acquire, Request};
use crate::time::{MILLISECOND, SECOND, nanos};
use crate::world::{World, trace};

impl World {
    /// Carries out the last decision, each action checked again.
    pub(crate) fn agent_execute(&mut self, member: usize, life: u64) {
        let agent = &mut self.hosts[member].agent;
        if !agent.alive || agent.life != life {
            return;
        }
        let Some(decision) = agent.pending.take() else { return };
        self.obey_address(member, decision.address);
        for action in &decision.actions {
            if !self.hosts[member].agent.alive || self.violation.is_some() {
                return;
            }
            if let Err(stale) = self.check_action(member, action) {
                self.refused(member, action, &stale);
                continue;
            }
            self.trace_action(member, action);
            self.witness(&Moment::Executing { member, action });
            self.execute(member, action);
        }
    }

    fn refused(&mut self, member: usize, action: &Action, stale: &Stale) {
        trace!(self, "{}: agent: {action:?} not done: {stale}", self.names[member]);
        let life = self.hosts[member].agent.life;
        self.after(20 * MILLISECOND, Event::Watch { member, life });
    }

    fn trace_action(&mut self, member: usize, action: &Action) {
        let quiet = matches!(
            action,
            Action::SetSlots { .. }
                | Action::PublishPosition { .. }
                | Action::AskPeers { .. }
                | Action::AskListed
                | Action::DisarmGuard { .. }
        );
        if !quiet {
            match action {
                Action::Begin(kind) => trace!(self, "{}: agent: begins: {kind}", self.names[member]),
                other => trace!(self, "{}: agent: {other:?}", self.names[member]),
            }
        }
    }

    fn execute(&mut self, member: usize, action: &Action) {
        match action {
            Action::Begin(kind) => self.operation_begin(member, kind.clone()),
            Action::CancelOperation => self.operation_cancel(member),
            Action::DisarmGuard { .. } => {
                self.guard_disarm(member);
                self.witness(&Moment::Changed);
            }
            Action::ArmGuard { epoch, deadline } => {
                self.guard_arm(member, *epoch, *deadline);
                self.wake_agent(member);
            }
            Action::AskPeers { members } => {
                for name in members {
                    self.ask_named(member, name, Question::Position);
                }
            }
            Action::AskListed => {
                self.ask_listed(member);
                self.wake_agent(member);
            }
            Action::PrepareCandidate { candidate, epoch } => {
                self.ask_named(member, candidate, Question::Prepare(*epoch));
            }
            Action::Checkpoint => {
                let host = &self.hosts[member];
                let (asked, life) = (host.clock.read(self.now), host.agent.life);
                // As the agent does, it gives up after a while; and a busy one may come to it late.
                let longest = nanos(CHECKPOINT_TIME) / MILLISECOND * 2;
                let wait = self.rng.log_within(2..longest) * MILLISECOND;
                self.after(wait, Event::Checkpointed { member, life, asked });
            }
            Action::AskProof { candidate, checkpoint } => {
                self.ask_named(member, candidate, Question::Proof(*checkpoint));
            }
            Action::SetSlots { .. } => {}
            Action::Exit { .. } => self.agent_exits(member),
            Action::AcquireLease { .. } => self.acquire(member, action),
            Action::ReleaseLease { created, successor } => self.release(member, *created, successor.as_ref()),
            other => self.write_key(member, other),
        }
    }

    /// The checkpoint that it asked for then has ended.
    pub(crate) fn checkpointed(&mut self, member: usize, life: u64, asked: BootTime) {
        let agent = &mut self.hosts[member].agent;
        if agent.alive && agent.life == life {
            agent.checkpoint = agent.checkpoint.max(Some(asked));
            self.wake_agent(member);
        }
    }

    fn ask_named(&mut self, member: usize, name: &pgbaton_types::MemberName, question: Question) {
        if let Some(to) = self.index_of(name).filter(|to| *to != member) {
            self.ask_peer(member, to, question);
        }
    }

    fn agent_exits(&mut self, member: usize) {
        // The operator, or the host's service manager, starts it again some time later.
        self.hosts[member].durable.lease = None;
        self.guard_disarm(member);
        self.agent_dies(member);
        let wait = self.rng.within(SECOND..10 * SECOND);
        self.after(wait, Event::AgentStart { member });
    }

    fn acquire(&mut self, member: usize, action: &Action) {
        let Action::AcquireLease { reserve, reservation_seen, initialize_seen, identity, ttl, above } = action else {
            return;
        };
        let lease = self.store.new_lease_id();
        let (base_seen, raise_base) = self.base_for(member, *above);
        let acquire = Acquire {
            member: self.names[member].clone(),
            lease,
            reserve: *reserve,
            reservation_seen: reservation_seen.unwrap_or(Revision(0)),
            initialize_seen: *initialize_seen,
            identity: *identity,
            claim: self.own_claim(member),
            ttl: *ttl,
            base_seen,
            raise_base,
        };
        let host = &mut self.hosts[member];
        host.agent.acquiring_until = Some(host.clock.read(self.now) + *ttl);
        self.hosts[member].agent.awaiting = true;
        let ttl_ms = nanos(*ttl) / MILLISECOND;
        self.send(member, Purpose::Acquire { lease: lease.0, ttl_ms }, Request::Acquire(acquire));
    }

    fn release(&mut self, member: usize, created: Revision, successor: Option<&pgbaton_types::MemberName>) {
        let host = &mut self.hosts[member];
        host.agent.lease = None;
        host.agent.renewing = false;
        host.durable.lease = None;
        // A creation revision alone may come again after the store was wiped.
        let compares = vec![Compare::created_at(layout::LEADER, created), self.own_key(member)];
        let mut success = vec![Op::delete(layout::LEADER)];
        if successor.is_some() {
            let text = layout::write_failover(Some(&self.names[member]), successor, true, None);
            success.push(Op::put(layout::FAILOVER, text));
        }
        self.hosts[member].agent.awaiting = true;
        let txn = Txn::when(compares, success);
        self.send(member, Purpose::Release, Request::Txn(txn));
    }

    fn own_key(&self, member: usize) -> Compare {
        Compare::Value { key: layout::LEADER.to_owned(), value: self.names[member].as_str().as_bytes().to_vec() }
    }

    fn own_claim(&self, member: usize) -> Compare {
        if self.scenario.external_store {
            return Compare::Value { key: layout::CLAIM.to_owned(), value: self.names[member].as_str().into() };
        }
        Compare::under_lease(layout::INITIALIZE, self.hosts[member].agent.session)
    }

    fn write_key(&mut self, member: usize, action: &Action) {
        let agent = &self.hosts[member].agent;
        // Only while the leader key is the one of the lease that this was decided under.
        let ours = agent.lease.map(|held| Compare::created_at(layout::LEADER, held.lease.created));
        let epoch = agent.lease.map(|held| held.lease.epoch);
        let held: Vec<Compare> = ours.into_iter().flat_map(|created| [created, self.own_key(member)]).collect();
        let (purpose, txn) = match action {
            Action::ClaimBootstrap => {
                let puts = if self.scenario.external_store {
                    vec![Op::put(layout::INITIALIZE, ""), Op::put(layout::CLAIM, self.names[member].as_str())]
                } else {
                    vec![Op::put_leased(layout::INITIALIZE, "", agent.session)]
                };
                (Purpose::Awaited, Txn::when(vec![Compare::absent(layout::INITIALIZE)], puts))
            }
            Action::WithdrawClaim => {
                let empty = Compare::Value { key: layout::INITIALIZE.to_owned(), value: Vec::new() };
                let gone = vec![Op::delete(layout::INITIALIZE), Op::delete(layout::CLAIM)];
                (Purpose::Awaited, Txn::when(vec![empty, self.own_claim(member)], gone))
            }
            Action::RecordInitialize { system_id, .. } => {
                // If the key is empty or absent; which of the two it was is in the view.
                let free = match agent.view.cluster.initialize {
                    Initialize::Absent => Compare::absent(layout::INITIALIZE),
                    _ => Compare::Value { key: layout::INITIALIZE.to_owned(), value: Vec::new() },
                };
                let compares = held.into_iter().chain([free]).collect();
                let known = Op::put(layout::INITIALIZE, system_id.0.to_string());
                (Purpose::Awaited, Txn::when(compares, vec![known, Op::delete(layout::CLAIM)]))
            }
            Action::PublishPosition { position } => {
                (Purpose::Publish, Txn::when(held, vec![Op::put(layout::STATUS, position.0.to_string())]))
            }
            Action::PublishHistory { history } => {
                let mut puts = vec![Op::put(layout::HISTORY, layout::write_history(history))];
                puts.extend(epoch.map(|epoch| Op::put(layout::HISTORY_EPOCH, epoch.0.to_string())));
                (Purpose::Publish, Txn::when(held, puts))
            }
            Action::ClearFailover { revision, .. } => {
                let compare = Compare::modified_at(layout::FAILOVER, *revision);
                (Purpose::Awaited, Txn::when(vec![compare], vec![Op::delete(layout::FAILOVER)]))
            }
            other => panic!("not a write to the store: {other:?}"),
        };
        if purpose == Purpose::Awaited {
            self.hosts[member].agent.awaiting = true;
        }
        self.send(member, purpose, Request::Txn(txn));
    }
}
