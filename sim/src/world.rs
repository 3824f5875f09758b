use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use pgbaton_types::MemberName;

use crate::agent_model::Agent;
use crate::event::{Event, Layer};
use crate::faults::Damage;
use crate::guard_model::Guard;
use crate::host::{Durable, Host};
use crate::invariants::{Moment, Monitor, Violation};
use crate::liveness::Healing;
use crate::network::Network;
use crate::postgres_model::Postgres;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::store_model::StoreModel;
use crate::time::{HostClock, MILLISECOND, SECOND, Time};

/// Adds a line to the trace, made only when it is kept.
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($text)*);
            $world.note(&line);
        }
    };
}
pub(crate) use trace;

/// Everything there is: hosts, network, store, what is still to happen, and who watches.
#[derive(Debug)]
pub(crate) struct World {
    /// True time.
    pub(crate) now: Time,
    /// The only source of chance.
    pub(crate) rng: Rng,
    /// What was drawn for this run.
    pub(crate) scenario: Scenario,
    /// The members' names.
    pub(crate) names: Vec<MemberName>,
    /// The members' hosts.
    pub(crate) hosts: Vec<Host>,
    /// The store.
    pub(crate) store: StoreModel,
    /// The links.
    pub(crate) network: Network,
    /// Faults that are at work.
    pub(crate) damage: Damage,
    /// Set once the faults have ended.
    pub(crate) healing: Option<Healing>,
    /// The lines of the trace, when it is kept.
    pub(crate) trace: Option<Vec<String>>,
    /// The first invariant that was broken.
    pub(crate) violation: Option<Violation>,
    monitor: Option<Box<Monitor>>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// Ids given to WAL records and data directories.
    ids: u64,
    expiry_scheduled: Option<Time>,
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl World {
    /// The world of `scenario` before anything has happened: no host has data.
    pub(crate) fn new(mut rng: Rng, scenario: Scenario, keep_trace: bool) -> Self {
        let names: Vec<MemberName> = ["a", "b", "c", "d", "e"][..scenario.members]
            .iter()
            .map(|name| name.parse().unwrap_or_else(|error| panic!("a member's name: {error}")))
            .collect();
        let clock = |rng: &mut Rng| HostClock {
            offset: rng.within(10..1000) * SECOND,
            rate_error_ppm: rng.pick(&[-1000, -200, 0, 0, 200, 1000]),
        };
        let hosts = (0..scenario.members)
            .map(|member| Host {
                clock: clock(&mut rng),
                up: true,
                frozen: false,
                postgres: Postgres::empty(),
                guard: Guard::default(),
                agent: Agent::dead(scenario.settings_of(member)),
                address: None,
                durable: Durable::default(),
                unreadable: false,
                receiver_hangs: false,
                silent_since: None,
                strange_since: None,
                deferred: Vec::new(),
            })
            .collect();
        let store = StoreModel::new(clock(&mut rng));
        let mut world = Self {
            now: 0,
            network: Network::new(scenario.members, scenario.store_slowness),
            damage: Damage::default(),
            healing: None,
            trace: keep_trace.then(Vec::new),
            violation: None,
            monitor: Some(Box::new(Monitor::new(scenario.members))),
            queue: BinaryHeap::new(),
            scheduled: 0,
            ids: 0,
            expiry_scheduled: None,
            rng,
            scenario,
            names,
            hosts,
            store,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for member in 0..self.scenario.members {
            let wait = self.rng.within(0..3 * SECOND);
            self.after(wait, Event::AgentStart { member });
        }
        let first_fault = self.rng.within(4..20) * SECOND;
        if !self.scenario.faults.is_empty() {
            self.after(first_fault, Event::Fault);
        }
        if self.scenario.operator_interval.is_some() && !self.scenario.operators.is_empty() {
            self.after(first_fault, Event::Operator);
        }
        for pooler in 0..self.scenario.poolers {
            self.after(SECOND, Event::PoolerThere { pooler });
        }
        self.after(SECOND, Event::Write);
        self.after(self.scenario.safety_phase, Event::Heal);
    }

    /// Runs until an invariant is broken or the healed cluster has proven itself.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && !self.healing.as_ref().is_some_and(Healing::is_over) {
            let Some(Reverse(next)) = self.queue.pop() else { return };
            self.now = next.at;
            self.happen(next.event);
        }
    }

    /// Lets an event happen after `wait`.
    pub(crate) fn after(&mut self, wait: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + wait, order: self.scheduled, event }));
    }

    /// Lets an event happen soon: after the time that a process needs to be scheduled.
    pub(crate) fn soon(&mut self, event: Event) {
        let wait = self.rng.within(MILLISECOND / 10..MILLISECOND);
        self.after(wait, event);
    }

    /// A number that nothing had before.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.ids += 1;
        // Spread, so that digests over chains of them differ in all bits.
        self.ids.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// A duration between a hundredth of `longest` and `longest`.
    pub(crate) fn up_to(&mut self, longest: Time) -> Time {
        self.rng.within(longest / 100..longest)
    }

    /// Adds a line to the trace; see `trace!`.
    pub(crate) fn note(&mut self, line: &str) {
        let time = format!("{:>11.6}", Duration::from_nanos(self.now).as_secs_f64());
        if let Some(lines) = &mut self.trace {
            lines.push(format!("{time} {line}"));
        }
    }

    /// Shows a moment to all invariants.
    pub(crate) fn witness(&mut self, moment: &Moment<'_>) {
        if self.violation.is_some() {
            return;
        }
        let Some(mut monitor) = self.monitor.take() else { return };
        if let Some(violation) = monitor.witness(moment, self) {
            trace!(self, "!! {}: {}", violation.invariant, violation.what);
            self.violation = Some(violation);
        }
        self.monitor = Some(monitor);
    }

    /// What the invariants know; not while they look themselves.
    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.as_deref()
    }

    /// A member by its name.
    pub(crate) fn index_of(&self, name: &MemberName) -> Option<usize> {
        self.names.iter().position(|other| other == name)
    }

    /// A running agent is given something to decide on.
    pub(crate) fn wake_agent(&mut self, member: usize) {
        let agent = &mut self.hosts[member].agent;
        if agent.alive && !agent.decide_scheduled {
            agent.decide_scheduled = true;
            let life = agent.life;
            self.soon(Event::Decide { member, life });
        }
    }

    fn happen(&mut self, event: Event) {
        let (host, agent) = match event.layer() {
            Layer::World => return self.happen_to_world(event),
            Layer::Agent(member) => (member, true),
            Layer::Host(member) | Layer::Guard(member) => (member, false),
        };
        let state = &mut self.hosts[host];
        if !state.up {
            return;
        }
        if state.frozen || agent && state.agent.frozen {
            state.deferred.push(event);
            return;
        }
        self.happen_to_host(event);
    }

    /// What was held back while a host or its agent was frozen happens now, the guard's timers first.
    pub(crate) fn thaw(&mut self, member: usize) {
        let mut deferred = std::mem::take(&mut self.hosts[member].deferred);
        deferred.sort_by_key(|event| !matches!(event.layer(), Layer::Guard(_)));
        for event in deferred {
            self.after(0, event);
        }
    }

    /// The store's processes ended with it: requests on their way to them get no answer.
    pub(crate) fn forget_requests(&mut self) {
        let unanswered = std::mem::take(&mut self.queue).into_iter().map(|Reverse(scheduled)| {
            let Scheduled { at, order, event } = scheduled;
            Reverse(match event {
                Event::StoreArrive { member, life, sent, purpose, give_up, .. } => Scheduled {
                    at: give_up.max(at),
                    order,
                    event: Event::StoreReply { member, life, sent, purpose, answer: None },
                },
                event => Scheduled { at, order, event },
            })
        });
        self.queue = unanswered.collect();
    }

    fn happen_to_world(&mut self, event: Event) {
        match event {
            Event::StoreArrive { member, life, sent, purpose, request, give_up } => {
                self.store_arrive(member, life, sent, purpose, &request, give_up);
            }
            Event::Write => self.clients_write(),
            Event::StoreExpiry => self.store_expiry(),
            Event::Fault => self.fault(),
            Event::Undo(undo) => self.undo(undo),
            Event::Operator => self.operate(),
            Event::PoolerThere { pooler } => self.pooler_there(pooler),
            Event::PoolerAnswers { pooler, asked, holds } => self.pooler_answers(pooler, asked, holds),
            Event::Heal => self.heal(),
            Event::Settle => self.settle(),
            other => panic!("not an event of the world: {other:?}"),
        }
    }

    fn happen_to_host(&mut self, event: Event) {
        match event {
            Event::AgentStart { member } => self.agent_start(member),
            Event::Decide { member, life } => self.agent_decide(member, life),
            Event::Wake { member, life, serial } => self.agent_wake(member, life, serial),
            Event::Execute { member, life } => self.agent_execute(member, life),
            Event::StoreReply { member, life, sent, purpose, answer } => {
                self.store_reply(member, life, sent, purpose, answer);
            }
            Event::RenewTimer { member, life, serial } => self.agent_renew(member, life, serial),
            Event::Watch { member, life } => self.agent_poll(member, life),
            Event::Ask { from, life, to, asked, question } => self.agent_asked(from, life, to, asked, question),
            Event::Told { to, life, from, answer } => self.agent_told(to, life, from, *answer),
            Event::OperationStep { member, life, serial } => self.operation_step(member, life, serial),
            Event::Checkpointed { member, life, asked } => self.checkpointed(member, life, asked),
            Event::GuardTimer { member, serial } => self.guard_timer(member, serial),
            Event::GuardKill { member, serial } => self.guard_kill(member, serial),
            Event::GuardBack { member } => self.guard_back(member),
            Event::ServerUp { member, life } => self.server_up(member, life),
            Event::ServerPromoted { member, life } => self.server_promoted(member, life),
            Event::ServerShutDown { member, life } => self.server_shut_down(member, life),
            Event::ServerExit { member, life } => self.server_exit(member, life),
            Event::Checkpoint { member, life } => self.server_checkpoint(member, life),
            Event::Deliver { member, life } => self.deliver(member, life),
            Event::Connect { member, life } => self.connect(member, life),
            other => panic!("not an event of a host: {other:?}"),
        }
    }

    fn store_expiry(&mut self) {
        self.expiry_scheduled = None;
        if self.store.available && self.store.expire(self.now) {
            trace!(self, "store: a lease ran out");
            self.store_changed();
        }
        self.schedule_expiry();
    }

    /// Makes sure that the store looks at its leases in time.
    pub(crate) fn schedule_expiry(&mut self) {
        let Some(next) = self.store.next_expiry() else { return };
        let at = next.max(self.now + MILLISECOND);
        if self.expiry_scheduled.is_none_or(|scheduled| scheduled > at || scheduled < self.now) {
            self.expiry_scheduled = Some(at);
            let look = self.rng.within(0..50 * MILLISECOND);
            self.after(at - self.now + look, Event::StoreExpiry);
        }
    }

    /// A key changed that agents watch.
    pub(crate) fn store_changed(&mut self) {
        for member in 0..self.scenario.members {
            let agent = &self.hosts[member].agent;
            let (alive, life) = (agent.alive, agent.life);
            if !alive || !self.network.reaches_store(member) || self.damage.watch_stalled == Some(member) {
                continue;
            }
            let delay = self.network.store_delay(member, &mut self.rng);
            self.after(delay, Event::Watch { member, life });
        }
    }
}
