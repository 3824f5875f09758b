use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_types::BootTime;

use crate::{LeaseId, Machine, Refusal};

/// When each lease runs out, as the one node that leads at the moment sees it. Never replicated, never on disk.
///
/// ```text
///   begin_term: every lease gets its full time again       (a new leader does not know the old one's times)
///   follow:     granted leases begin, ended ones are dropped (after each applied command)
///   arrive -> extend: a renewal, counted from its arrival
///   due:        leases that ran out are marked; from then on nothing extends them, until the term ends
///   end_term:   nothing is known any more, not even that a lease is gone
/// ```
///
/// **Bounds**, with the time measured by `CLOCK_BOOTTIME` of the leader: a lease never ends earlier than its time to live
/// after the *arrival* of the last renewal that was answered with yes; this also holds over any change of leader, because
/// a new leader begins with the full time, and its term begins after that arrival. It ends later by: the time from
/// running out to the next look, and the commit of the command that ends it; and after a change of leader by at most the
/// time without a leader plus a full time to live. A frozen leader ends nothing; when it is thawed it first finds
/// out whether it still leads, because an end takes effect only by a committed command.
#[derive(Debug, Default)]
pub struct LeaseTimes {
    /// The term that was led in last.
    term: u64,
    /// It still is.
    leads: bool,
    leases: BTreeMap<LeaseId, Timing>,
}

#[derive(Debug)]
struct Timing {
    ttl: Duration,
    expiry: BootTime,
    /// The end was proposed in this term. The proposal may be in the log already, whatever became of its answer.
    ending: bool,
}

/// A renewal that has arrived: what must still be true when the read barrier has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalBarrier {
    term: u64,
    arrived: BootTime,
}

impl LeaseTimes {
    /// This node leads since `now` in `term`: every lease of the applied state gets its full time to live.
    pub fn begin_term(&mut self, term: u64, now: BootTime, machine: &Machine) {
        assert!(term >= self.term, "leadership went back from term {} to {term}", self.term);
        self.term = term;
        self.leads = true;
        self.leases.clear();
        self.follow(now, machine);
    }

    /// This node does not lead any more: it says nothing about times.
    pub fn end_term(&mut self) {
        self.leads = false;
        self.leases.clear();
    }

    /// Takes over what became of the leases in the applied state: new ones begin at `now`, ended ones are forgotten.
    pub fn follow(&mut self, now: BootTime, machine: &Machine) {
        self.leases.retain(|id, _| machine.lease_ttl(*id).is_some());
        for (id, ttl) in machine.leases() {
            self.leases.entry(id).or_insert(Timing { ttl, expiry: now + ttl, ending: false });
        }
    }

    /// Notes that a renewal arrived. The caller then makes sure, by a linearizable read barrier that *begins after
    /// this*, that it still leads, and calls [`LeaseTimes::extend`].
    pub fn arrive(&self, now: BootTime) -> RenewalBarrier {
        RenewalBarrier { term: self.term, arrived: now }
    }

    /// Extends a lease after the barrier was passed in the same term; `None`: the term is another one, or has ended, and the renewal
    /// must be tried again with the new leader. The caller has checked the holder in the applied state.
    ///
    /// # Errors
    /// The lease does not exist, or its end was proposed.
    pub fn extend(&mut self, id: LeaseId, barrier: RenewalBarrier) -> Option<Result<(), Refusal>> {
        if !self.leads || barrier.term != self.term {
            return None;
        }
        let Some(timing) = self.leases.get_mut(&id) else { return Some(Err(Refusal::LeaseNotFound(id))) };
        if timing.ending {
            return Some(Err(Refusal::LeaseExpiring(id)));
        }
        timing.expiry = timing.expiry.max(barrier.arrived + timing.ttl);
        Some(Ok(()))
    }

    /// The leases that have run out at `now`, to be ended by a logged command. They stay marked for the rest of the
    /// term, and are reported again until [`LeaseTimes::follow`] sees that they are gone.
    pub fn due(&mut self, now: BootTime) -> Vec<LeaseId> {
        let due = self.leases.iter_mut().filter(|(_, timing)| timing.ending || now.reached(timing.expiry));
        due.map(|(id, timing)| {
            timing.ending = true;
            *id
        })
        .collect()
    }

    /// When the next lease runs out, among those whose end was not proposed yet.
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.leases.values().filter(|timing| !timing.ending).map(|timing| timing.expiry).min()
    }

    /// When this lease runs out.
    pub fn expiry(&self, id: LeaseId) -> Option<BootTime> {
        self.leases.get(&id).map(|timing| timing.expiry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    const SECOND: u64 = 1_000_000_000;

    fn machine_with(id: u64, ttl_ms: u64) -> Machine {
        let mut machine = Machine::new();
        machine.apply(&Command::LeaseGrant { id: LeaseId(id), ttl_ms }).result.unwrap();
        machine
    }

    #[test]
    fn a_renewal_counts_from_its_arrival_and_never_shortens() {
        let machine = machine_with(7, 10_000);
        let mut times = LeaseTimes::default();
        times.begin_term(1, BootTime(0), &machine);
        let early = times.arrive(BootTime(SECOND));
        let late = times.arrive(BootTime(3 * SECOND));
        times.extend(LeaseId(7), late).unwrap().unwrap();
        times.extend(LeaseId(7), early).unwrap().unwrap();
        assert_eq!(times.expiry(LeaseId(7)), Some(BootTime(13 * SECOND)));
    }

    #[test]
    fn what_is_being_ended_is_not_extended_in_this_term_but_in_the_next() {
        let machine = machine_with(7, 10_000);
        let mut times = LeaseTimes::default();
        times.begin_term(1, BootTime(0), &machine);
        let barrier = times.arrive(BootTime(9 * SECOND));
        assert_eq!(times.due(BootTime(10 * SECOND)), [LeaseId(7)]);
        assert_eq!(times.extend(LeaseId(7), barrier), Some(Err(Refusal::LeaseExpiring(LeaseId(7)))));
        assert_eq!(times.due(BootTime(10 * SECOND)), [LeaseId(7)], "reported until it is applied");
        times.begin_term(2, BootTime(11 * SECOND), &machine);
        assert_eq!(times.extend(LeaseId(7), barrier), None, "a barrier of another term");
        assert!(times.due(BootTime(20 * SECOND)).is_empty());
        assert_eq!(times.expiry(LeaseId(7)), Some(BootTime(21 * SECOND)), "full time from the new term on");
    }

    #[test]
    fn who_does_not_lead_any_more_refuses_nothing() {
        let machine = machine_with(7, 10_000);
        let mut times = LeaseTimes::default();
        times.begin_term(1, BootTime(0), &machine);
        let barrier = times.arrive(BootTime(SECOND));
        times.end_term();
        assert_eq!(times.extend(LeaseId(7), barrier), None, "the lease lives on with the next leader");
        times.begin_term(1, BootTime(2 * SECOND), &machine);
        assert_eq!(times.extend(LeaseId(7), barrier), Some(Ok(())), "it went on leading");
    }

    #[test]
    fn leases_follow_the_applied_state() {
        let mut machine = machine_with(7, 10_000);
        let mut times = LeaseTimes::default();
        times.begin_term(1, BootTime(0), &machine);
        machine.apply(&Command::LeaseGrant { id: LeaseId(8), ttl_ms: 5_000 }).result.unwrap();
        machine.apply(&Command::LeaseRevoke { id: LeaseId(7) }).result.unwrap();
        times.follow(BootTime(SECOND), &machine);
        assert_eq!(times.expiry(LeaseId(7)), None);
        assert_eq!(times.next_expiry(), Some(BootTime(6 * SECOND)));
    }
}
