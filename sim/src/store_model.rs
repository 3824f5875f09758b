use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::observation::{Initialize, MemberFacts};
use pgbaton_store::{Command, Compare, LeaseId, LeaseTimes, Machine, Op, Response, Txn};
use pgbaton_types::{BootTime, Epoch, MemberName, Revision, SystemId, TimelineId};

use crate::layout::{self, Decoded};
use crate::time::{HostClock, Time};

/// A request of an agent.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Keep the session, publish the member's facts if they changed, read everything.
    Poll {
        /// Who.
        member: MemberName,
        /// Its session.
        session: LeaseId,
        /// What it publishes.
        facts: MemberFacts,
        /// The session's time to live.
        ttl: Duration,
    },
    /// Extend the lease of the leader key.
    Renew {
        /// The lease.
        lease: LeaseId,
        /// Creation of the key.
        created: Revision,
    },
    /// Take the lease.
    Acquire(Acquire),
    /// Anything else: one transaction.
    Txn(Txn),
}

/// What taking the lease needs.
#[derive(Debug, Clone)]
pub(crate) struct Acquire {
    /// Who.
    pub(crate) member: MemberName,
    /// The number that it chose for the lease.
    pub(crate) lease: LeaseId,
    /// Timeline number to reserve.
    pub(crate) reserve: TimelineId,
    /// Revision of the reservation that was seen; zero: there was none.
    pub(crate) reservation_seen: Revision,
    /// The key `initialize` as it was seen.
    pub(crate) initialize_seen: Initialize,
    /// The identity to be recorded.
    pub(crate) identity: Option<SystemId>,
    /// What holds while an own claim to make the cluster stands.
    pub(crate) claim: Compare,
    /// Time to live to ask for.
    pub(crate) ttl: Duration,
    /// The base of epochs that was seen.
    pub(crate) base_seen: u64,
    /// What it has to be, if it has to be raised.
    pub(crate) raise_base: Option<u64>,
}

/// What the store answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// To a poll.
    View(Rc<Decoded>, Revision),
    /// To a renewal: extended, with the ttl that it was granted.
    Renewed(Option<Duration>),
    /// To an acquisition: the key's creation and epoch; none: somebody was faster.
    Acquired(Option<(Revision, Epoch)>),
    /// To a transaction: whether its compares held.
    Done(bool),
}

/// The store: the real machine and the real lease times, driven by hand. Where it is reached from and how fast is the
/// network's affair; elections are an outage and a new term.
#[derive(Debug)]
pub(crate) struct StoreModel {
    machine: Machine,
    times: LeaseTimes,
    term: u64,
    /// The clock of whoever leads it.
    pub(crate) clock: HostClock,
    /// Whether it has a leader and a majority.
    pub(crate) available: bool,
    cache: Option<Rc<Decoded>>,
    leases_made: u64,
    /// An older state, put aside by an operator.
    copy: Option<Machine>,
}

impl StoreModel {
    /// An empty store.
    pub(crate) fn new(clock: HostClock) -> Self {
        let mut model = Self {
            machine: Machine::new(),
            times: LeaseTimes::default(),
            term: 1,
            clock,
            available: true,
            cache: None,
            leases_made: 0,
            copy: None,
        };
        model.times.begin_term(1, BootTime(0), &model.machine);
        model
    }

    /// A number for a lease that none had before.
    pub(crate) fn new_lease_id(&mut self) -> LeaseId {
        self.leases_made += 1;
        LeaseId(self.leases_made)
    }

    /// What all keys say, read at most once for each change.
    pub(crate) fn decoded(&mut self) -> Rc<Decoded> {
        self.cache.get_or_insert_with(|| layout::decode(&self.machine)).clone()
    }

    /// What all keys say, for who must not change anything.
    pub(crate) fn peek(&self) -> Rc<Decoded> {
        self.cache.clone().unwrap_or_else(|| layout::decode(&self.machine))
    }

    /// The longest time to live that a lease was granted with.
    pub(crate) fn longest_ttl(&self) -> Duration {
        self.machine.leases().map(|(_, ttl)| ttl).max().unwrap_or_default()
    }

    /// The revision.
    pub(crate) fn revision(&self) -> Revision {
        self.machine.revision()
    }

    /// A new leader of the store: every lease has its full time again.
    pub(crate) fn new_term(&mut self, now: Time) {
        self.term += 1;
        self.times.begin_term(self.term, self.clock.read(now), &self.machine);
        self.available = true;
    }

    /// All voters lost their directories: the store is empty, its revisions begin anew.
    pub(crate) fn wipe(&mut self, now: Time) {
        self.machine = Machine::new();
        self.cache = None;
        self.term += 1;
        self.times.begin_term(self.term, self.clock.read(now), &self.machine);
    }

    /// Puts the present state aside.
    pub(crate) fn copy(&mut self) {
        self.copy = Some(self.machine.clone());
    }

    /// Puts the copy in place, as etcd's `snapshot restore` does: revisions go on from where they were then, and every lease that there was
    /// has its full time again. False if there is none.
    pub(crate) fn restore(&mut self, now: Time) -> bool {
        let Some(copy) = self.copy.clone() else { return false };
        self.machine = copy;
        self.cache = None;
        self.term += 1;
        self.times.begin_term(self.term, self.clock.read(now), &self.machine);
        true
    }

    /// Ends the leases that ran out; whether a key went with one.
    pub(crate) fn expire(&mut self, now: Time) -> bool {
        let ids = self.times.due(self.clock.read(now));
        !ids.is_empty() && self.command(now, &Command::LeaseExpire { ids })
    }

    /// When the next lease runs out.
    pub(crate) fn next_expiry(&self) -> Option<Time> {
        self.times.next_expiry().map(|expiry| self.clock.when(expiry))
    }

    /// A transaction that nobody has to be told about: an operator's.
    pub(crate) fn transact(&mut self, now: Time, txn: Txn) -> bool {
        match self.apply(now, &Request::Txn(txn)) {
            Answer::Done(held) => held,
            _ => false,
        }
    }

    /// Serves one request at the moment of its arrival.
    pub(crate) fn apply(&mut self, now: Time, request: &Request) -> Answer {
        match request {
            Request::Poll { member, session, facts, ttl } => self.poll(now, member, *session, facts, *ttl),
            Request::Renew { lease, created } => {
                let barrier = self.times.arrive(self.clock.read(now));
                let holds = self.machine.check_holder(layout::LEADER, *created, *lease).is_ok();
                let extended = holds && matches!(self.times.extend(*lease, barrier), Some(Ok(())));
                Answer::Renewed(self.machine.lease_ttl(*lease).filter(|_| extended))
            }
            Request::Acquire(acquire) => self.acquire(now, acquire),
            Request::Txn(txn) => {
                let applied = self.machine.apply(&Command::Txn(txn.clone()));
                self.after(now, !applied.events.is_empty());
                Answer::Done(matches!(applied.result, Ok(Response::Txn(result)) if result.succeeded))
            }
        }
    }

    fn poll(&mut self, now: Time, member: &MemberName, session: LeaseId, facts: &MemberFacts, ttl: Duration) -> Answer {
        if self.machine.lease_ttl(session).is_none() {
            self.command(now, &grant(session, ttl));
        }
        let barrier = self.times.arrive(self.clock.read(now));
        // A session whose end is under way is begun anew by the next poll.
        let extended = self.times.extend(session, barrier);
        let known = self.decoded();
        if known.cluster.members.get(member) != Some(facts) && matches!(extended, Some(Ok(()))) {
            let put = Op::put_leased(format!("{}{member}", layout::MEMBERS), layout::write_facts(facts), session);
            self.command(now, &Command::Txn(Txn::of(vec![put])));
        }
        Answer::View(self.decoded(), self.machine.revision())
    }

    fn acquire(&mut self, now: Time, acquire: &Acquire) -> Answer {
        self.command(now, &grant(acquire.lease, acquire.ttl));
        let mut compares =
            vec![Compare::absent(layout::LEADER), Compare::modified_at(layout::RESERVED, acquire.reservation_seen)];
        let identity = |text: String| Compare::Value { key: layout::INITIALIZE.to_owned(), value: text.into_bytes() };
        compares.push(match acquire.initialize_seen {
            Initialize::Absent => Compare::absent(layout::INITIALIZE),
            // An empty one may be another member's by now.
            Initialize::UnderWay { .. } => acquire.claim.clone(),
            Initialize::Done(system_id) => identity(system_id.to_string()),
        });
        let mut puts = vec![
            Op::put_leased(layout::LEADER, acquire.member.as_str(), acquire.lease),
            Op::put(layout::RESERVED, acquire.reserve.0.to_string()),
        ];
        compares.push(match acquire.base_seen {
            0 => Compare::absent(layout::BASE),
            seen => Compare::Value { key: layout::BASE.to_owned(), value: seen.to_string().into_bytes() },
        });
        if let Some(system_id) = acquire.identity {
            puts.push(Op::put(layout::INITIALIZE, system_id.to_string()));
        }
        if let Some(raised) = acquire.raise_base {
            puts.push(Op::put(layout::BASE, raised.to_string()));
        }
        let applied = self.machine.apply(&Command::Txn(Txn::when(compares, puts)));
        self.after(now, !applied.events.is_empty());
        match applied.result {
            Ok(Response::Txn(result)) if result.succeeded => {
                let base = self.decoded().cluster.base;
                Answer::Acquired(Some((result.revision, Epoch::of(base, result.revision))))
            }
            _ => {
                self.command(now, &Command::LeaseRevoke { id: acquire.lease });
                Answer::Acquired(None)
            }
        }
    }

    fn command(&mut self, now: Time, command: &Command) -> bool {
        let changed = !self.machine.apply(command).events.is_empty();
        self.after(now, changed);
        changed
    }

    fn after(&mut self, now: Time, changed: bool) {
        self.times.follow(self.clock.read(now), &self.machine);
        if changed {
            self.cache = None;
        }
    }
}

fn grant(id: LeaseId, ttl: Duration) -> Command {
    Command::LeaseGrant { id, ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) }
}
