//! What agents send to the store and to each other, and how it gets lost on the way.

use std::time::Duration;

use pgbaton_core::lease::{RenewalTimes, acquire_time, base_to_raise, deadline, request_time, until_renewal};
use pgbaton_core::observation::{Answer as ServerAnswer, Lease, PeerAnswer};
use pgbaton_store::LeaseId;
use pgbaton_types::{BootTime, Epoch};

use crate::event::{Event, Purpose, Question};
use crate::host::{Held, Host};
use crate::invariants::Moment;
use crate::network::{Network, Traffic};
use crate::postgres_model::Role;
use crate::store_model::{Answer, Request};
use crate::time::{MILLISECOND, Time, nanos};
use crate::world::{World, trace};

/// How long a request is waited for.
fn patience(host: &Host, purpose: &Purpose) -> Time {
    let settings = &host.agent.settings;
    nanos(match purpose {
        Purpose::Acquire { .. } => 2 * acquire_time(settings),
        Purpose::Renew => {
            let granted = host.agent.lease.map_or(settings.ttl, |held| held.lease.granted);
            settings.retry_timeout.min(request_time(granted))
        }
        _ => settings.retry_timeout,
    })
}

/// Two times this many bytes may be missing in a candidate's replay when it says that it is ready.
const CLOSE_BYTES: u64 = 1 << 20;

impl World {
    /// Asks the store for everything, and publishes the member's facts.
    pub(crate) fn send_poll(&mut self, member: usize) {
        let facts = self.facts_of(member);
        let agent = &self.hosts[member].agent;
        // The session outlives a slow loop; its end takes the member's key away.
        let ttl = agent.settings.ttl;
        let request = Request::Poll { member: self.names[member].clone(), session: agent.session, facts, ttl };
        self.send(member, Purpose::Poll, request);
    }

    /// Asks the store to extend the lease.
    pub(crate) fn send_renewal(&mut self, member: usize, held: Held) {
        self.send(member, Purpose::Renew, Request::Renew { lease: held.id, created: held.lease.created });
    }

    /// Sends a request. Whatever becomes of it, the agent hears an answer or, after `retry_timeout`, that there is none.
    pub(crate) fn send(&mut self, member: usize, purpose: Purpose, request: Request) {
        let host = &self.hosts[member];
        let (life, sent) = (host.agent.life, host.clock.read(self.now));
        let patience = patience(host, &purpose);
        let give_up = self.now + patience;
        let lost = !self.network.reaches_store(member) || self.network.loses(&mut self.rng);
        if lost {
            self.after(patience, Event::StoreReply { member, life, sent, purpose, answer: None });
            return;
        }
        let mut delay = self.network.store_delay(member, &mut self.rng);
        if matches!(purpose, Purpose::Acquire { .. }) {
            // The lease is granted first; the second request hangs the key on it.
            delay += self.network.store_delay(member, &mut self.rng) + self.network.store_delay(member, &mut self.rng);
        }
        if delay > patience {
            // It arrives all the same, when nobody waits any more.
            self.after(patience, Event::StoreReply { member, life, sent, purpose, answer: None });
        }
        let request = Box::new(request);
        self.after(delay, Event::StoreArrive { member, life, sent, purpose, request, give_up });
    }

    /// A request has reached the store.
    pub(crate) fn store_arrive(
        &mut self,
        member: usize,
        life: u64,
        sent: BootTime,
        purpose: Purpose,
        request: &Request,
        give_up: u64,
    ) {
        let awaited = self.now <= give_up;
        let wait_for_nothing = give_up.saturating_sub(self.now);
        let reaches = self.hosts[member].up && self.network.reaches_store(member);
        if !reaches || !self.store_serves() {
            if awaited {
                self.after(wait_for_nothing, Event::StoreReply { member, life, sent, purpose, answer: None });
            }
            return;
        }
        let before = self.store.revision();
        let answer = self.store.apply(self.now, request);
        if let Answer::Acquired(Some((_, epoch))) = &answer {
            trace!(self, "store: {} has the lease of {epoch}", self.names[member]);
            let epoch = *epoch;
            self.witness(&Moment::Granted { member, epoch });
        }
        // Nobody watches the members' facts, positions and histories.
        if self.store.revision() != before && !matches!(purpose, Purpose::Poll | Purpose::Publish) {
            self.store_changed();
        }
        self.schedule_expiry();
        if !awaited {
            return;
        }
        let indeterminate = self.damage.indeterminate && self.rng.chance(300);
        let delay = self.network.store_delay(member, &mut self.rng);
        let too_late = self.now + delay > give_up;
        let frozen_link = !self.network.reaches_store(member) || self.network.loses(&mut self.rng);
        if indeterminate || too_late || frozen_link {
            self.after(wait_for_nothing, Event::StoreReply { member, life, sent, purpose, answer: None });
        } else {
            self.after(delay, Event::StoreReply { member, life, sent, purpose, answer: Some(answer) });
        }
    }

    /// Whether the store has a leader and a majority.
    pub(crate) fn store_serves(&self) -> bool {
        let alive = self.hosts.iter().filter(|host| host.up && !host.frozen).count();
        self.store.available && alive * 2 > self.hosts.len()
    }

    /// An answer of the store, or none, has come back to the agent.
    pub(crate) fn store_reply(
        &mut self,
        member: usize,
        life: u64,
        sent: BootTime,
        purpose: Purpose,
        answer: Option<Answer>,
    ) {
        let agent = &mut self.hosts[member].agent;
        if !agent.alive || agent.life != life {
            return;
        }
        match (purpose, answer) {
            (Purpose::Poll, Some(Answer::View(decoded, revision))) => {
                self.take_view(member, sent, &decoded, revision);
                self.wake_agent(member);
            }
            (Purpose::Poll, _) => {
                self.hosts[member].agent.ready = true;
                self.wake_agent(member);
            }
            (Purpose::Renew, answer) => self.renewed(member, sent, answer.as_ref()),
            (Purpose::Acquire { lease, ttl_ms }, answer) => {
                self.acquired(member, sent, LeaseId(lease), ttl_ms, answer.as_ref());
            }
            (Purpose::Release | Purpose::Awaited, _) => {
                agent.awaiting = false;
                self.agent_poll(member, life);
                self.wake_agent(member);
            }
            (Purpose::Publish, _) => {}
        }
    }

    fn renewed(&mut self, member: usize, sent: BootTime, answer: Option<&Answer>) {
        let now = self.now;
        let host = &mut self.hosts[member];
        host.agent.renewing = false;
        let Some(held) = &mut host.agent.lease else { return };
        match answer {
            // What comes back after the deadline makes nothing valid again: others may have been told that it has run out.
            Some(Answer::Renewed(Some(_)))
                if !host.agent.settings.paused && host.clock.read(now).reached(held.lease.deadline) => {}
            Some(Answer::Renewed(Some(granted))) => {
                let granted = *granted;
                let times = RenewalTimes { sent, answered: host.clock.read(now) };
                let until = deadline(times, granted, &host.agent.settings);
                held.lease.granted = granted;
                held.lease.deadline = held.lease.deadline.max(until);
                let (epoch, until) = (held.lease.epoch, held.lease.deadline);
                host.durable.lease = Some(*held);
                if !host.agent.settings.paused || host.guard.armed.is_some() {
                    self.guard_arm(member, epoch, until);
                }
                self.prolong_address(member, epoch, true);
            }
            Some(Answer::Renewed(None)) => {
                // Refused: the key or the lease is gone. The deadline stands; what to do is the core's to say.
                trace!(self, "{}: agent: its lease is not its own any more", self.names[member]);
                let life = self.hosts[member].agent.life;
                self.agent_poll(member, life);
            }
            _ => {}
        }
    }

    fn acquired(&mut self, member: usize, sent: BootTime, id: LeaseId, ttl_ms: u64, answer: Option<&Answer>) {
        let now = self.now;
        let host = &mut self.hosts[member];
        host.agent.awaiting = false;
        host.agent.acquiring_until = None;
        let above = host.durable.promised;
        if let Some(Answer::Acquired(Some((created, epoch)))) = answer
            && *epoch > above
        {
            let granted = Duration::from_millis(ttl_ms);
            let times = RenewalTimes { sent, answered: host.clock.read(now) };
            let until = deadline(times, granted, &host.agent.settings);
            let (epoch, created) = (*epoch, *created);
            let held = Held { lease: Lease { epoch, created, granted, deadline: until }, id };
            host.agent.lease = Some(held);
            host.agent.renew = true;
            host.durable.lease = Some(held);
            host.durable.promised = host.durable.promised.max(epoch);
            if !host.agent.settings.paused {
                self.guard_arm(member, epoch, until);
            }
            let host = &self.hosts[member];
            let first = nanos(until_renewal(host.clock.read(now), &held.lease, &host.agent.settings));
            self.schedule_renewal(member, first);
        } else {
            trace!(self, "{}: agent: did not get the lease", self.names[member]);
        }
        let life = self.hosts[member].agent.life;
        self.agent_poll(member, life);
        self.wake_agent(member);
    }

    /// What an acquisition has to know of epochs: the base that was seen, and what it has to be to stay above `above`.
    pub(crate) fn base_for(&self, member: usize, above: Epoch) -> (u64, Option<u64>) {
        let host = &self.hosts[member];
        let view = &host.agent.view;
        let above = above.max(host.durable.promised);
        let base = view.cluster.base;
        (base, base_to_raise(above, base, view.revision, view.cluster.initialize))
    }

    /// Sends a question to another member.
    pub(crate) fn ask_peer(&mut self, member: usize, to: usize, question: Question) {
        let host = &self.hosts[member];
        let (life, asked) = (host.agent.life, host.clock.read(self.now));
        if self.network.reaches(member, to, Traffic::Peers) && !self.network.loses(&mut self.rng) {
            let delay = Network::peer_delay(&mut self.rng);
            self.after(delay, Event::Ask { from: member, life, to, asked, question });
        }
    }

    /// A question has arrived.
    pub(crate) fn agent_asked(&mut self, from: usize, life: u64, to: usize, asked: BootTime, question: Question) {
        let host = &mut self.hosts[to];
        if !host.agent.alive {
            return;
        }
        match question {
            Question::Position => {}
            Question::Prepare(epoch) => {
                host.agent.prepared = Some(epoch);
                if let Some(running) = host.postgres.running_mut() {
                    running.replay_paused = false;
                    running.replayed = usize::MAX;
                }
            }
            Question::Proof(checkpoint) => host.agent.proof_asked = Some(checkpoint),
        }
        let answer = Box::new(self.peer_answer(to, asked));
        let delay = Network::peer_delay(&mut self.rng) + MILLISECOND;
        if self.network.reaches(from, to, Traffic::Peers) && !self.network.loses(&mut self.rng) {
            self.after(delay, Event::Told { to: from, life, from: to, answer });
        }
    }

    fn peer_answer(&self, member: usize, asked: BootTime) -> PeerAnswer {
        let host = &self.hosts[member];
        let seen = host.postgres.see_server(host.clock, host.silent_since, &self.names);
        let mut answer = PeerAnswer {
            asked,
            system_id: host.postgres.data.as_ref().map(|data| data.system_id),
            primary: host.postgres.role() == Some(Role::Primary),
            history: None,
            position: pgbaton_types::Lsn::INVALID,
            promised: host.durable.promised,
            timeline_given: host.durable.timeline_given,
            unfit: host.agent.unfit.clone(),
            priority: host.agent.settings.failover_priority,
            checkpointed: false,
            prepared: None,
            proof: None,
        };
        if let pgbaton_core::observation::Server::Running { answer: seen, .. } = seen {
            match seen {
                ServerAnswer::Primary(status) => {
                    answer.history = Some(status.history);
                    answer.position = status.position;
                    answer.checkpointed = status.checkpointed;
                }
                ServerAnswer::Standby(status) => {
                    let close = status.received.bytes_ahead_of(status.replayed) <= CLOSE_BYTES;
                    answer.prepared = host.agent.prepared.filter(|_| close && !status.replay_paused);
                    answer.history = Some(status.history);
                    answer.position = status.received;
                }
                ServerAnswer::Starting | ServerAnswer::Silent { .. } => {}
            }
        }
        // Whoever has not received up to the end of the record cannot say yet.
        let data = host.postgres.data.as_ref().zip(host.agent.proof_asked);
        answer.proof = data
            .filter(|(data, checkpoint)| data.wal.end() >= checkpoint.end || data.system_id != checkpoint.system_id)
            .map(|(data, checkpoint)| {
                (checkpoint, data.system_id == checkpoint.system_id && data.wal.has(&checkpoint))
            });
        answer
    }

    /// An answer has come back.
    pub(crate) fn agent_told(&mut self, to: usize, life: u64, from: usize, answer: PeerAnswer) {
        let name = self.names[from].clone();
        let agent = &mut self.hosts[to].agent;
        if agent.alive && agent.life == life && agent.peers.get(&name).is_none_or(|known| known.asked <= answer.asked) {
            agent.peers.insert(name, answer);
            self.wake_agent(to);
        }
    }
}
