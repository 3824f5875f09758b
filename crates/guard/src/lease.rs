//! The rules for the deadline that the agent hands over: pure, no clock, no I/O.

use crate::wire::{Disarm, Refusal};

/// Farthest deadline that is accepted, nanoseconds from now: an hour. A longer lease is a mistake in the agent's
/// arithmetic, and would keep a server alive that nobody answers for.
pub(crate) const FARTHEST: u64 = 3600 * 1_000_000_000;

/// The deadline held, or that none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lease {
    /// Highest epoch that was held. Only grows.
    pub(crate) epoch: u64,
    /// When the server must be dead; none when disarmed.
    pub(crate) deadline: Option<u64>,
    /// Disarmed for a pause.
    pub(crate) paused: bool,
}

/// What of the server counts for the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    /// A process of it is there.
    pub(crate) alive: bool,
    /// It is being killed.
    pub(crate) killing: bool,
    /// It was started as a primary, or told to become one. Stays until no process is left.
    pub(crate) primary: bool,
    /// A deadline was held while a process of it was there. Stays until no process is left.
    pub(crate) ran_armed: bool,
}

impl Lease {
    /// Whether the deadline has been reached.
    pub(crate) fn expired(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether a primary may be started.
    pub(crate) fn permits_primary(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| now < deadline)
    }

    /// Takes a new deadline.
    pub(crate) fn extend(&mut self, now: u64, tree: Tree, epoch: u64, deadline: u64) -> Result<(), Refusal> {
        // A server that is being killed stays killed, whatever news arrive: some of its processes are dead already.
        if tree.killing {
            return Err(Refusal::Killing);
        }
        if epoch < self.epoch {
            return Err(Refusal::EpochPassed);
        }
        if deadline <= now {
            return Err(Refusal::DeadlinePassed);
        }
        if deadline > now.saturating_add(FARTHEST) {
            return Err(Refusal::DeadlineTooFar);
        }
        if epoch == self.epoch && self.deadline.is_some_and(|held| deadline < held) {
            return Err(Refusal::DeadlineEarlier);
        }
        *self = Self { epoch, deadline: Some(deadline), paused: false };
        Ok(())
    }

    /// Gives up the deadline.
    pub(crate) fn disarm(&mut self, tree: Tree, reason: Disarm) -> Result<(), Refusal> {
        let refused = match reason {
            Disarm::Paused => false,
            Disarm::Standby => tree.alive && tree.primary,
            Disarm::Stopped => tree.alive && tree.ran_armed,
        };
        if refused {
            return Err(Refusal::PrimaryThere);
        }
        self.deadline = None;
        self.paused = reason == Disarm::Paused;
        Ok(())
    }

    /// The deadline has passed and nothing is left to enforce it on.
    pub(crate) fn lapse(&mut self) {
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::{FARTHEST, Lease, Tree};
    use crate::wire::{Disarm, Refusal};

    const PRIMARY: Tree = Tree { alive: true, killing: false, primary: true, ran_armed: true };
    const PROMOTING: Tree = Tree { alive: true, killing: false, primary: false, ran_armed: true };
    const NONE: Tree = Tree { alive: false, killing: false, primary: false, ran_armed: false };

    fn held(epoch: u64, deadline: u64) -> Lease {
        Lease { epoch, deadline: Some(deadline), paused: false }
    }

    #[test]
    fn a_deadline_only_moves_on_within_an_epoch() {
        let mut lease = held(3, 100);
        assert_eq!(lease.extend(50, PRIMARY, 3, 99), Err(Refusal::DeadlineEarlier));
        assert_eq!(lease.extend(50, PRIMARY, 3, 100), Ok(()));
        assert_eq!(lease.extend(50, PRIMARY, 3, 120), Ok(()));
        assert_eq!(lease, held(3, 120));
    }

    #[test]
    fn an_epoch_only_grows_also_over_a_disarm() {
        let mut lease = held(3, 100);
        assert_eq!(lease.extend(50, PRIMARY, 2, 200), Err(Refusal::EpochPassed));
        lease.disarm(NONE, Disarm::Stopped).unwrap();
        assert_eq!(lease.extend(50, NONE, 2, 200), Err(Refusal::EpochPassed));
        // A new epoch may begin with an earlier deadline: it is another lease.
        let mut lease = held(3, 100);
        assert_eq!(lease.extend(50, PRIMARY, 4, 90), Ok(()));
        assert_eq!(lease, held(4, 90));
    }

    #[test]
    fn a_deadline_lies_in_the_future_and_not_too_far() {
        let mut lease = Lease::default();
        assert_eq!(lease.extend(100, NONE, 1, 100), Err(Refusal::DeadlinePassed));
        assert_eq!(lease.extend(100, NONE, 1, 101 + FARTHEST), Err(Refusal::DeadlineTooFar));
        assert_eq!(lease, Lease::default());
        assert_eq!(lease.extend(100, NONE, 1, 100 + FARTHEST), Ok(()));
    }

    #[test]
    fn a_server_being_killed_is_not_saved() {
        let mut lease = held(3, 100);
        assert_eq!(lease.extend(99, Tree { killing: true, ..PRIMARY }, 4, 200), Err(Refusal::Killing));
    }

    #[test]
    fn a_primary_is_not_disarmed_but_by_a_pause() {
        for (tree, reason, expected) in [
            (PRIMARY, Disarm::Stopped, Err(Refusal::PrimaryThere)),
            (PRIMARY, Disarm::Standby, Err(Refusal::PrimaryThere)),
            (PRIMARY, Disarm::Paused, Ok(())),
            (PROMOTING, Disarm::Stopped, Err(Refusal::PrimaryThere)),
            (PROMOTING, Disarm::Standby, Ok(())),
            (NONE, Disarm::Stopped, Ok(())),
            (NONE, Disarm::Standby, Ok(())),
        ] {
            let mut lease = held(3, 100);
            assert_eq!(lease.disarm(tree, reason), expected, "{tree:?} {reason:?}");
            assert_eq!(lease.deadline.is_none(), expected.is_ok());
            assert_eq!(lease.paused, expected.is_ok() && reason == Disarm::Paused);
        }
    }

    #[test]
    fn at_the_deadline_it_has_passed() {
        let lease = held(1, 100);
        assert!(!lease.expired(99) && lease.permits_primary(99));
        assert!(lease.expired(100) && !lease.permits_primary(100));
        assert!(!Lease::default().expired(u64::MAX) && !Lease::default().permits_primary(0));
    }
}
