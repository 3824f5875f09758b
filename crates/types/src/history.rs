use serde::{Deserialize, Serialize};

use crate::{Lsn, ParseError, TimelineId};

/// One line of a timeline history file: the timeline `timeline` ended at `switch` and another one began there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left: WAL below this position is common.
    pub switch: Lsn,
    /// The reason, as PostgreSQL wrote it.
    pub reason: String,
}

/// How a timeline came to be: its ancestors with the positions at which each was left, oldest first
/// (PostgreSQL documentation, "Timelines"; the file `pg_wal/NNNNNNNN.history`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<HistoryEntry>,
}

/// Whether a copy of the data can follow a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Divergence {
    /// Everything that the copy holds is in the other history: it can stream from there.
    None,
    /// The histories part at this position and the copy holds WAL beyond it.
    At(Lsn),
    /// The copy's timeline does not occur in the other history, and neither does any ancestor that is known.
    Unrelated,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// A history from its entries.
    ///
    /// # Errors
    /// When the entries are not in ascending order of timeline and position, or do not end below `timeline`.
    pub fn new(timeline: TimelineId, ancestors: Vec<HistoryEntry>) -> Result<Self, ParseError> {
        let ascending =
            ancestors.windows(2).all(|pair| pair[0].timeline < pair[1].timeline && pair[0].switch <= pair[1].switch);
        let below = ancestors.last().is_none_or(|last| last.timeline < timeline);
        if !ascending || !below {
            return Err(ParseError::new(
                "a timeline history",
                &format!("{ancestors:?}"),
                "entries in ascending order below the timeline",
            ));
        }
        Ok(Self { timeline, ancestors })
    }

    /// Reads the text of `NNNNNNNN.history`.
    ///
    /// # Errors
    /// When a line that is neither empty nor a comment is not `timeline<TAB>lsn<TAB>reason`.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, ParseError> {
        let bad = |line: &str| {
            ParseError::new("a line of a timeline history", line, "timeline, position and reason, separated by tabs")
        };
        let mut ancestors = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.splitn(3, '\t');
            let parent = fields.next().and_then(|field| field.trim().parse().ok()).ok_or_else(|| bad(line))?;
            let switch = fields.next().and_then(|field| field.trim().parse().ok()).ok_or_else(|| bad(line))?;
            let reason = fields.next().unwrap_or_default().to_owned();
            ancestors.push(HistoryEntry { timeline: TimelineId(parent), switch, reason });
        }
        Self::new(timeline, ancestors)
    }

    /// The timeline that this is the history of.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn ancestors(&self) -> &[HistoryEntry] {
        &self.ancestors
    }

    /// The history of the timeline `next` that begins where this one is left at `switch`.
    #[must_use]
    pub fn fork(&self, next: TimelineId, switch: Lsn, reason: &str) -> Self {
        assert!(next > self.timeline, "timeline {next} does not come after {}", self.timeline);
        let mut ancestors = self.ancestors.clone();
        ancestors.push(HistoryEntry { timeline: self.timeline, switch, reason: reason.to_owned() });
        Self { timeline: next, ancestors }
    }

    /// Where `timeline` ends in this history: its switch position, no end for the own timeline, nothing if it does
    /// not occur.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|entry| entry.timeline == timeline).map(|entry| Some(entry.switch))
    }

    /// The timelines, oldest first, each with where it was left (none: the last one).
    fn chain(&self) -> impl Iterator<Item = (TimelineId, Option<Lsn>)> {
        let ancestors = self.ancestors.iter().map(|entry| (entry.timeline, Some(entry.switch)));
        ancestors.chain([(self.timeline, None)])
    }

    /// Whether a copy with history `copy`, whose WAL ends at `end`, can follow this history as it is.
    ///
    /// Decided by ancestry and switch positions, never by comparing timeline numbers.
    pub fn divergence_of(&self, copy: &Self, end: Lsn) -> Divergence {
        let mut common = None;
        // A copy whose history file is missing is known from its last timeline on only.
        let oldest = copy.chain().next().map(|(timeline, _)| timeline);
        let mut ours = self.chain().skip_while(|(timeline, _)| Some(*timeline) != oldest);
        for (timeline, left) in copy.chain() {
            // The next timeline of both, not any of that number: two promotions may have taken the same one.
            let Some((_, ours)) = ours.next().filter(|(same, _)| *same == timeline) else { break };
            match (left, ours) {
                (Some(left), Some(ours)) if left == ours => common = Some(left),
                (left, ours) => {
                    // Here the histories part: the first to leave this timeline did so at `parted`.
                    let parted = [left, ours].into_iter().flatten().min();
                    return match parted {
                        Some(parted) if end > parted => Divergence::At(parted),
                        _ => Divergence::None,
                    };
                }
            }
        }
        match common {
            Some(parted) if end > parted => Divergence::At(parted),
            Some(_) => Divergence::None,
            None => Divergence::Unrelated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(parent: &TimelineHistory, timeline: u32, switch: u64) -> TimelineHistory {
        parent.fork(TimelineId(timeline), Lsn(switch), "test")
    }

    #[test]
    fn a_history_file_is_read() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n";
        let history = TimelineHistory::parse(TimelineId(3), text).unwrap();
        assert_eq!(history.ancestors().len(), 2);
        assert_eq!(history.end_of(TimelineId(2)), Some(Some(Lsn(0x500_0000))));
        assert_eq!(history.end_of(TimelineId(3)), Some(None));
        assert_eq!(history.end_of(TimelineId(4)), None);
        assert!(TimelineHistory::parse(TimelineId(2), text).is_err(), "an ancestor is not below the timeline");
    }

    #[test]
    fn divergence_goes_by_ancestry() {
        let one = TimelineHistory::root(TimelineId(1));
        let two = fork(&one, 2, 100);
        let three_of_one = fork(&one, 3, 80);
        // A copy on timeline 1 may hold WAL up to the switch, not beyond it.
        assert_eq!(two.divergence_of(&one, Lsn(100)), Divergence::None);
        assert_eq!(two.divergence_of(&one, Lsn(101)), Divergence::At(Lsn(100)));
        // A higher number is not a descendant.
        assert_eq!(three_of_one.divergence_of(&two, Lsn(120)), Divergence::At(Lsn(80)));
        assert_eq!(two.divergence_of(&three_of_one, Lsn(90)), Divergence::At(Lsn(80)));
        // A copy that is on a newer timeline than ours but holds nothing of it that we lack.
        assert_eq!(one.divergence_of(&two, Lsn(100)), Divergence::None);
        assert_eq!(two.divergence_of(&two, Lsn(500)), Divergence::None);
    }

    #[test]
    fn the_same_number_with_another_beginning_is_another_timeline() {
        let one = TimelineHistory::root(TimelineId(1));
        let a = fork(&one, 2, 100);
        let b = fork(&one, 2, 90);
        assert_eq!(a.divergence_of(&b, Lsn(150)), Divergence::At(Lsn(90)));
        // Two promotions took the number 4: one from timeline 2, the other from timeline 3.
        let of_two = fork(&a, 4, 120);
        let of_three = fork(&fork(&a, 3, 120), 4, 300);
        assert_eq!(of_three.divergence_of(&of_two, Lsn(200)), Divergence::At(Lsn(120)));
        // A copy without its history file is still placed by its last timeline.
        assert_eq!(of_three.divergence_of(&TimelineHistory::root(TimelineId(3)), Lsn(200)), Divergence::None);
    }

    #[test]
    fn histories_without_a_common_timeline_are_unrelated() {
        let ours = TimelineHistory::root(TimelineId(1));
        let theirs = TimelineHistory::root(TimelineId(7));
        assert_eq!(ours.divergence_of(&theirs, Lsn(1)), Divergence::Unrelated);
    }
}
