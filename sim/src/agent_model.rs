//! An agent: observe, decide, check, execute. It knows only what it can know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgbaton_core::execution;
use pgbaton_core::observation::{ControlState, Lease};
use pgbaton_core::observation::{
    Directory, Finished, Guard as GuardView, HostFacts, Initialize, Listed, Local, MemberFacts, Observation, Operation,
    Orders, PeerAnswer, StoreView,
};
use pgbaton_core::{Action, Decision, Memory, Settings, decide, lease, safety};
use pgbaton_store::LeaseId;
use pgbaton_types::{BootTime, Epoch, MemberName, ShutdownCheckpoint};

use crate::address_model::Keeping;
use crate::event::Event;
use crate::host::Held;
use crate::invariants::{Moment, Violation};
use crate::layout::Decoded;
use crate::network::Traffic;
use crate::operations::Begun;
use crate::postgres_model::Role;
use crate::time::{SECOND, Time, nanos};
use crate::world::{World, trace};

/// Pause between two questions to the other voters about their hosts, as in the agent.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// An agent's memory and what it waits for.
#[derive(Debug)]
pub(crate) struct Agent {
    /// It runs.
    pub(crate) alive: bool,
    /// It is stopped by a signal, or waits for a disk: nothing of it is scheduled.
    pub(crate) frozen: bool,
    /// Counts its lives.
    pub(crate) life: u64,
    /// What it was configured with.
    pub(crate) settings: Settings,
    /// What the core wants remembered.
    pub(crate) memory: Memory,
    /// The store as it last saw it.
    pub(crate) view: StoreView,
    /// The lease that it holds.
    pub(crate) lease: Option<Held>,
    /// A lease was asked for and, if the store granted it, runs until then.
    pub(crate) acquiring_until: Option<BootTime>,
    /// A renewal is under way.
    pub(crate) renewing: bool,
    /// Its session in the store.
    pub(crate) session: LeaseId,
    /// What others answered.
    pub(crate) peers: BTreeMap<MemberName, PeerAnswer>,
    /// The operation under way.
    pub(crate) operation: Option<Begun>,
    /// How the last one ended.
    pub(crate) finished: Option<Finished>,
    /// When the checkpoint was asked for that ended last.
    pub(crate) checkpoint: Option<BootTime>,
    /// What an operator asked.
    pub(crate) orders: Orders,
    /// The last decision allows to renew.
    pub(crate) renew: bool,
    /// What it was last told to do with the virtual address.
    pub(crate) address: Keeping,
    /// What the last decision said about its fitness.
    pub(crate) unfit: Option<String>,
    /// The control file's state when it first looked.
    pub(crate) found: Option<ControlState>,
    /// For which handover it has been asked to make itself ready.
    pub(crate) prepared: Option<Epoch>,
    /// The record that it was asked for.
    pub(crate) proof_asked: Option<ShutdownCheckpoint>,
    /// A decision is due.
    pub(crate) decide_scheduled: bool,
    /// It waits for the store's answer to an action and decides nothing meanwhile.
    pub(crate) awaiting: bool,
    /// What is to be carried out.
    pub(crate) pending: Option<Box<Decision>>,
    /// The cluster was paused when it decided last.
    pub(crate) decided_paused: bool,
    /// It had a request for a handover before it when it last decided.
    pub(crate) decided_asked: bool,
    /// It has looked at its disk and asked the store once.
    pub(crate) ready: bool,
    /// The last decision blocked with a reason, for the checks of the healed cluster.
    pub(crate) last_report: Vec<pgbaton_core::Finding>,
    pub(crate) wake_serial: u64,
    pub(crate) renew_serial: u64,
    pub(crate) operation_serial: u64,
    polled: Option<Time>,
}

impl Agent {
    /// One that has not been started.
    pub(crate) fn dead(settings: Settings) -> Self {
        Self {
            alive: false,
            frozen: false,
            life: 0,
            settings,
            memory: Memory::default(),
            view: StoreView::default(),
            lease: None,
            acquiring_until: None,
            renewing: false,
            session: LeaseId(0),
            peers: BTreeMap::new(),
            operation: None,
            finished: None,
            checkpoint: None,
            orders: Orders::default(),
            renew: true,
            address: Keeping::Unknown,
            unfit: Some("it has not decided yet".to_owned()),
            found: None,
            prepared: None,
            proof_asked: None,
            decide_scheduled: false,
            awaiting: false,
            pending: None,
            ready: false,
            decided_paused: false,
            decided_asked: false,
            last_report: Vec::new(),
            wake_serial: 0,
            renew_serial: 0,
            operation_serial: 0,
            polled: None,
        }
    }
}

impl World {
    /// The guard starts the agent: what it knows is what is on disk, and the deadline that the guard enforces.
    pub(crate) fn agent_start(&mut self, member: usize) {
        if self.hosts[member].agent.alive {
            return;
        }
        let settings = self.scenario.settings_of(member);
        let session = self.store.new_lease_id();
        let host = &mut self.hosts[member];
        let life = host.agent.life + 1;
        let mut agent = Agent { alive: true, life, session, ..Agent::dead(settings) };
        agent.memory.promised = host.durable.promised;
        agent.memory.timeline_given = host.durable.timeline_given;
        agent.found = host.postgres.data.as_ref().map(|data| data.state);
        // A lease whose deadline the guard still enforces is still held.
        let armed = host.guard.armed;
        agent.lease = host.durable.lease.filter(|held| armed.is_some_and(|armed| armed.epoch == held.lease.epoch));
        if let (Some(held), Some(armed)) = (&mut agent.lease, armed) {
            held.lease.deadline = armed.deadline;
        }
        let holds = agent.lease.is_some();
        host.agent = agent;
        trace!(self, "{}: agent: started{}", self.names[member], if holds { ", still holding its lease" } else { "" });
        if holds {
            self.schedule_renewal(member, 0);
        }
        self.agent_poll(member, life);
    }

    /// The agent is gone; its children that copy files are gone with it.
    pub(crate) fn agent_dies(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        if !host.agent.alive {
            return;
        }
        host.agent.alive = false;
        host.agent.frozen = false;
        host.agent.lease = None;
        host.agent.operation = None;
        trace!(self, "{}: agent: gone", self.names[member]);
    }

    /// The agent reads the store and renews its session.
    pub(crate) fn agent_poll(&mut self, member: usize, life: u64) {
        let host = &mut self.hosts[member];
        if !host.agent.alive || host.agent.life != life {
            return;
        }
        host.agent.polled = Some(self.now);
        self.send_poll(member);
    }

    /// The moment has come at which the last decision wanted to be woken.
    pub(crate) fn agent_wake(&mut self, member: usize, life: u64, serial: u64) {
        let agent = &self.hosts[member].agent;
        if !agent.alive || agent.life != life || agent.wake_serial != serial {
            return;
        }
        let period = nanos(agent.settings.loop_wait) * 9 / 10;
        if agent.polled.is_none_or(|polled| self.now - polled >= period) {
            self.agent_poll(member, life);
        }
        self.wake_agent(member);
    }

    /// Looks, decides, and plans the next look.
    pub(crate) fn agent_decide(&mut self, member: usize, life: u64) {
        let agent = &mut self.hosts[member].agent;
        if !agent.alive || agent.life != life {
            return;
        }
        agent.decide_scheduled = false;
        if agent.awaiting || agent.pending.is_some() || !agent.ready {
            return;
        }
        self.keep_listed(member);
        let observation = self.observe(member);
        let settings = &self.hosts[member].agent.settings;
        let decision = decide(settings, &observation);
        if self.scenario.bug.is_none()
            && let Some(broken) = safety::check(settings, &observation, &decision).first()
        {
            let what = format!("{}: {broken}: {:?}", self.names[member], decision.actions);
            self.violation.get_or_insert(Violation { invariant: "LINT", what });
        }
        self.trace_decision(member, &observation, &decision);
        self.witness(&Moment::Decided { member, observation: &observation, decision: &decision });
        let now = self.now;
        let address_changes = self.address_changes(member, decision.address);
        let host = &mut self.hosts[member];
        let agent = &mut host.agent;
        let asks = decision.memory.pausing.filter(|pausing| agent.memory.pausing != Some(*pausing));
        agent.memory = decision.memory.clone();
        host.durable.promised = host.durable.promised.max(decision.memory.promised);
        host.durable.timeline_given = host.durable.timeline_given.max(decision.memory.timeline_given);
        agent.renew = decision.renew;
        agent.decided_paused = agent.settings.paused;
        agent.decided_asked = observation.store.cluster.failover.is_some();
        agent.unfit.clone_from(&decision.unfit);
        agent.last_report.clone_from(&decision.report);
        agent.wake_serial += 1;
        let serial = agent.wake_serial;
        let wait = host.clock.when(decision.wake_at).saturating_sub(now).max(SECOND / 1000);
        if !decision.actions.is_empty() || address_changes {
            agent.pending = Some(Box::new(decision));
            self.soon(Event::Execute { member, life });
        }
        self.after(wait, Event::Wake { member, life, serial });
        if let Some(pausing) = asks {
            self.ask_poolers(pausing.since);
        }
    }

    fn trace_decision(&mut self, member: usize, observation: &Observation, decision: &Decision) {
        if self.trace.is_none() {
            return;
        }
        let same = decision.report == self.hosts[member].agent.last_report;
        if same && decision.actions.is_empty() {
            return;
        }
        let why = decision.report.last().map(ToString::to_string).unwrap_or_default();
        let role = self.hosts[member].postgres.role();
        let leader =
            observation.store.cluster.leader.as_ref().map(|leader| format!("{}@{}", leader.member, leader.epoch));
        let line = format!(
            "{}: decides [{role:?}, leader {}, lease {}] {why}",
            self.names[member],
            leader.unwrap_or_else(|| "-".to_owned()),
            observation.lease.map_or("-".to_owned(), |lease| lease.epoch.to_string()),
        );
        self.note(&line);
    }

    /// What the agent knows.
    pub(crate) fn observe(&self, member: usize) -> Observation {
        let host = &self.hosts[member];
        let agent = &host.agent;
        let directory = if host.unreadable {
            Directory::Unreadable { error: "Input/output error".to_owned() }
        } else {
            host.postgres.see_directory()
        };
        Observation {
            now: host.clock.read(self.now),
            me: self.names[member].clone(),
            local: Local {
                directory,
                found: agent.found,
                server: host.postgres.see_server(host.clock, host.silent_since, &self.names),
            },
            store: agent.view.clone(),
            lease: agent.lease.map(|held| held.lease),
            guard: GuardView { alive: host.guard.alive, armed: host.guard.armed.is_some() },
            peers: agent.peers.clone(),
            operation: agent.operation.as_ref().map(|begun| Operation { kind: begun.kind.clone(), since: begun.since }),
            finished: agent.finished.clone(),
            checkpoint: agent.checkpoint,
            orders: agent.orders.clone(),
            memory: agent.memory.clone(),
        }
    }

    /// Takes over a new view of the store.
    pub(crate) fn take_view(
        &mut self,
        member: usize,
        sent: BootTime,
        decoded: &Decoded,
        revision: pgbaton_types::Revision,
    ) {
        let host = &mut self.hosts[member];
        let mut cluster = decoded.cluster.clone();
        if let Initialize::UnderWay { mine } = &mut cluster.initialize {
            let by_name = decoded.claimant.as_ref() == Some(&self.names[member]);
            *mine = if self.scenario.external_store { by_name } else { decoded.claimed_by == Some(host.agent.session) };
        }
        if let Some(request) = &mut cluster.failover {
            request.due = decoded.failover_due.map(|due| host.clock.read(due));
        }
        // Answers may overtake each other.
        if host.agent.view.as_of.is_some_and(|newest| newest > sent) {
            return;
        }
        // Who has no data before there is a cluster may come and go. None of the others is forgotten in the time that a simulation lasts.
        let done = matches!(cluster.initialize, Initialize::Done(_));
        let shown = cluster.members.iter().filter(|(_, facts)| done || facts.has_data);
        let other = |name: &MemberName| self.names.iter().position(|known| known == name).filter(|at| *at != member);
        host.durable.members.extend(shown.filter_map(|(name, _)| other(name)));
        let listed = std::mem::take(&mut host.agent.view.listed);
        host.agent.view = StoreView { as_of: Some(sent), revision, cluster, listed };
        host.agent.ready = true;
    }

    /// While the store does not know the cluster, the agent asks the other voters about their hosts again and again.
    fn keep_listed(&mut self, member: usize) {
        let host = &self.hosts[member];
        let view = &host.agent.view;
        let now = host.clock.read(self.now);
        let old = view.listed.iter().any(|listed| listed.asked.is_none_or(|asked| now.since(asked) >= ASK_INTERVAL));
        if view.listed.is_empty() || (old && view.cluster.initialize == Initialize::Absent) {
            self.ask_listed(member);
        }
    }

    /// The agent asks the other voters about their hosts. Where the store lists none, they tell whom they know besides: who has not been asked
    /// counts as silent.
    pub(crate) fn ask_listed(&mut self, member: usize) {
        let now = self.hosts[member].clock.read(self.now);
        let mut listed = self.listed(member, now);
        if self.scenario.external_store {
            let known = &self.hosts[member].durable.members;
            let answering = known.iter().filter(|other| self.answers(member, **other));
            let told: BTreeSet<usize> =
                answering.flat_map(|other| &self.hosts[*other].durable.members).copied().collect();
            let new: Vec<usize> = told.difference(known).copied().filter(|other| *other != member).collect();
            listed.extend(new.iter().map(|other| self.silent(*other)));
            self.hosts[member].durable.members.extend(new);
        }
        self.hosts[member].agent.view.listed = listed;
    }

    fn answers(&self, asking: usize, asked: usize) -> bool {
        self.hosts[asked].agent_runs() && self.network.reaches(asking, asked, Traffic::Peers)
    }

    fn silent(&self, member: usize) -> Listed {
        Listed { address: format!("{}:5433", self.names[member]), asked: None, host: None }
    }

    /// The other voters and what they say about their hosts; where the store has hosts of its own, the members that it has shown.
    fn listed(&self, member: usize, now: BootTime) -> Vec<Listed> {
        let known = |other: &usize| !self.scenario.external_store || self.hosts[member].durable.members.contains(other);
        let others = (0..self.scenario.members).filter(|other| *other != member).filter(known);
        let said = others.map(|other| {
            let host = self.answers(member, other).then(|| self.host_facts(other));
            Listed { asked: Some(now), host, ..self.silent(other) }
        });
        said.collect()
    }

    fn host_facts(&self, member: usize) -> HostFacts {
        let host = &self.hosts[member];
        let proven_standby = host.says_standby();
        let now = host.clock.read(self.now);
        let left = |lease: Lease| (lease.deadline + host.agent.settings.kill_time).since(now);
        let asked = host.agent.acquiring_until.map(|until| until.since(now)).unwrap_or_default();
        HostFacts {
            system_id: host.postgres.data.as_ref().map(|data| data.system_id),
            promised: host.durable.promised,
            timeline: host.postgres.data.as_ref().map(|data| data.history.timeline()),
            primary_may_run: host.postgres.tree_alive() && !proven_standby,
            lease_left: host.durable.lease.map(|held| left(held.lease)).unwrap_or_default().max(asked),
        }
    }

    /// What the member publishes about itself.
    pub(crate) fn facts_of(&self, member: usize) -> MemberFacts {
        let host = &self.hosts[member];
        MemberFacts {
            nofailover: host.agent.settings.nofailover,
            has_data: host.postgres.data.is_some() && host.postgres.incomplete.is_none(),
            primary: host.postgres.role() == Some(Role::Primary),
        }
    }

    /// What is checked right before an action is carried out.
    pub(crate) fn check_action(&self, member: usize, action: &Action) -> Result<(), execution::Stale> {
        let host = &self.hosts[member];
        let agent = &host.agent;
        let facts = execution::Facts {
            now: host.clock.read(self.now),
            lease: agent.lease.map(|held| held.lease),
            renewing: agent.renewing,
            armed: host.guard.armed.map(|armed| armed.epoch),
            paused: agent.settings.paused,
            tree_alive: host.postgres.tree_alive(),
            proven_standby: host.says_standby() && host.silent_since.is_none(),
            leader: agent.view.cluster.leader.as_ref(),
            bugs: agent.settings.bugs,
        };
        execution::check(action, &facts)
    }

    /// Plans the next renewal.
    pub(crate) fn schedule_renewal(&mut self, member: usize, wait: Time) {
        let agent = &mut self.hosts[member].agent;
        agent.renew_serial += 1;
        let (life, serial) = (agent.life, agent.renew_serial);
        self.after(wait, Event::RenewTimer { member, life, serial });
    }

    /// The renewal's own timer.
    pub(crate) fn agent_renew(&mut self, member: usize, life: u64, serial: u64) {
        let agent = &mut self.hosts[member].agent;
        if !agent.alive || agent.life != life || agent.renew_serial != serial {
            return;
        }
        let Some(held) = agent.lease else { return };
        let period = nanos(lease::renew_period(&agent.settings));
        if agent.renew && !agent.renewing {
            agent.renewing = true;
            self.send_renewal(member, held);
        }
        self.schedule_renewal(member, period);
    }
}
