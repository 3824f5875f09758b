//! The divergence of histories, compared with a naive reckoning: every byte of WAL is named by the chain of timelines
//! that led to it, and two histories part at the first byte whose names differ.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use pgbaton_types::{Divergence, Lsn, TimelineHistory, TimelineId};
use proptest::prelude::*;

/// Positions are small, so that every byte can be looked at.
const END_MAX: u64 = 40;

/// A tree of timelines: each but the first forks from an earlier one at some position.
fn tree() -> impl Strategy<Value = Vec<TimelineHistory>> {
    prop::collection::vec((any::<prop::sample::Index>(), 1..END_MAX), 1..6).prop_map(|forks| {
        let mut timelines = vec![TimelineHistory::root(TimelineId(1))];
        for (number, (parent, switch)) in forks.into_iter().enumerate() {
            let parent = parent.get(&timelines).clone();
            let least = parent.ancestors().last().map_or(1, |entry| entry.switch.0);
            let id = TimelineId(u32::try_from(number).unwrap() + 2);
            timelines.push(parent.fork(id, Lsn(switch.max(least)), "fork"));
        }
        timelines
    })
}

/// The timeline that wrote the byte at `position`, by this history.
fn writer_of(history: &TimelineHistory, position: u64) -> TimelineId {
    history
        .ancestors()
        .iter()
        .find(|entry| position < entry.switch.0)
        .map_or(history.timeline(), |entry| entry.timeline)
}

fn naive(leader: &TimelineHistory, copy: &TimelineHistory, end: u64) -> Divergence {
    match (0..end).find(|position| writer_of(leader, *position) != writer_of(copy, *position)) {
        Some(position) => Divergence::At(Lsn(position)),
        None => Divergence::None,
    }
}

proptest! {
    #[test]
    fn divergence_is_where_the_bytes_part(timelines in tree(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), end in 1..END_MAX) {
        let (leader, copy) = (a.get(&timelines), b.get(&timelines));
        prop_assert_eq!(leader.divergence_of(copy, Lsn(end)), naive(leader, copy, end));
    }

    #[test]
    fn a_history_survives_its_file(timelines in tree(), a in any::<prop::sample::Index>()) {
        let history = a.get(&timelines);
        let lines: Vec<String> =
            history.ancestors().iter().map(|entry| format!("{}\t{}\t{}\n", entry.timeline, entry.switch, entry.reason)).collect();
        let text = lines.concat();
        prop_assert_eq!(&TimelineHistory::parse(history.timeline(), &text).unwrap(), history);
    }
}
