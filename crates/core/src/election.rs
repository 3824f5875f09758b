//! Who is the best of those that can be reached. Positions are compared with their history; numbers of timelines decide nothing.

use std::cmp::Ordering;

use pgbaton_types::{Divergence, Lsn, MemberName, TimelineHistory};

use crate::bugs::{Bug, Bugs};

/// One who might lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub member: MemberName,
    /// Its newest timeline with ancestors.
    pub history: TimelineHistory,
    /// How far it has received.
    pub position: Lsn,
    /// Its `failover_priority`.
    pub priority: u32,
}

impl Candidate {
    /// Whether `self` holds more than `other`: on a descendant of its timeline, or further on the same one. `Equal`
    /// positions are for [`Candidate::rank_against`] to settle.
    fn advance(&self, other: &Self, bugs: Bugs) -> Ordering {
        if bugs.has(Bug::Pgaf683) {
            return (self.history.timeline(), self.position).cmp(&(other.history.timeline(), other.position));
        }
        if self.history == other.history {
            return self.position.cmp(&other.position);
        }
        let they_fit = self.history.divergence_of(&other.history, other.position) == Divergence::None;
        let we_fit = other.history.divergence_of(&self.history, self.position) == Divergence::None;
        match (they_fit, we_fit) {
            // They hold parts of one line: more of it is more, and at the same point the one that knows of the newer
            // timeline is ahead, so that the line is not forked anew.
            (true, true) => self
                .position
                .cmp(&other.position)
                .then_with(|| self.descends_from(other).cmp(&other.descends_from(self))),
            // They have parted for good: the longer one loses less.
            (false, false) => self.position.cmp(&other.position),
            // What they hold is a part of our history, not the other way round: we are ahead.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
        }
    }

    fn descends_from(&self, other: &Self) -> bool {
        self.history.timeline() != other.history.timeline() && self.history.end_of(other.history.timeline()).is_some()
    }

    /// The order in which candidates lead: the most advanced first; priority breaks exact ties, the name the rest.
    pub fn rank_against(&self, other: &Self, bugs: Bugs) -> Ordering {
        self.advance(other, bugs).then(self.priority.cmp(&other.priority)).then_with(|| other.member.cmp(&self.member))
    }
}

/// The member among `others` that would rather lead than `own`, if any.
pub fn better_than<'a>(own: &Candidate, others: &'a [Candidate], bugs: Bugs) -> Option<&'a Candidate> {
    if bugs.has(Bug::StolonSelf) {
        return None;
    }
    others
        .iter()
        .filter(|other| other.rank_against(own, bugs) == Ordering::Greater)
        .max_by(|a, b| a.rank_against(b, bugs))
}

#[cfg(test)]
mod tests {
    use pgbaton_types::TimelineId;

    use super::*;

    fn candidate(name: &str, history: &TimelineHistory, position: u64, priority: u32) -> Candidate {
        Candidate { member: name.parse().unwrap(), history: history.clone(), position: Lsn(position), priority }
    }

    #[test]
    fn the_most_advanced_leads_and_priority_breaks_ties_only() {
        let one = TimelineHistory::root(TimelineId(1));
        let bugs = Bugs::default();
        let own = candidate("a", &one, 100, 1);
        assert_eq!(better_than(&own, &[candidate("b", &one, 99, 9)], bugs), None);
        assert!(better_than(&own, &[candidate("b", &one, 101, 0)], bugs).is_some());
        assert!(better_than(&own, &[candidate("b", &one, 100, 2)], bugs).is_some());
        assert_eq!(better_than(&own, &[candidate("b", &one, 100, 1)], bugs), None, "the name settles it");
    }

    #[test]
    fn a_descendant_beats_a_higher_position_on_the_line_it_left() {
        let one = TimelineHistory::root(TimelineId(1));
        let two = one.fork(TimelineId(2), Lsn(100), "test");
        let behind_on_new = candidate("a", &two, 100, 1);
        let prefix_on_old = candidate("b", &one, 100, 9);
        assert_eq!(better_than(&behind_on_new, std::slice::from_ref(&prefix_on_old), Bugs::default()), None);
        let moved_on = candidate("a", &two, 120, 1);
        assert!(better_than(&prefix_on_old, &[moved_on], Bugs::default()).is_some());
    }
}
