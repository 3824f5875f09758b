//! The words of one line of a story.

use std::time::Duration;

use pgbaton_types::{Epoch, HistoryEntry, Lsn, MemberName, TimelineHistory, TimelineId};

/// The words of a line, each taken once: plain ones in order, flags and `key=value` from anywhere.
pub(crate) struct Words<'a> {
    left: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        Self { left: line.split_whitespace().collect() }
    }

    pub(crate) fn next(&mut self) -> Result<&'a str, String> {
        if self.left.is_empty() {
            return Err("the line ends too early".to_owned());
        }
        Ok(self.left.remove(0))
    }

    /// Whether the word `flag` is there.
    pub(crate) fn flag(&mut self, flag: &str) -> bool {
        let before = self.left.len();
        self.left.retain(|word| *word != flag);
        before != self.left.len()
    }

    /// The value of `key=value`, if it is there.
    pub(crate) fn keyed(&mut self, key: &str) -> Option<&'a str> {
        let at = self.left.iter().position(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))?;
        Some(&self.left.remove(at)[key.len() + 1..])
    }

    pub(crate) fn end(&self) -> Result<(), String> {
        if self.left.is_empty() { Ok(()) } else { Err(format!("not understood: {:?}", self.left)) }
    }

    pub(crate) fn name(&mut self) -> Result<MemberName, String> {
        self.next()?.parse().map_err(|error| format!("{error}"))
    }

    pub(crate) fn number(&mut self) -> Result<u32, String> {
        let word = self.next()?;
        word.parse().map_err(|_| format!("{word:?} is no number"))
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, String> {
        duration(self.next()?)
    }

    pub(crate) fn lsn(&mut self) -> Result<Lsn, String> {
        lsn(self.next()?)
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, String> {
        epoch(self.next()?)
    }
}

/// A member's name in a story; stories use valid ones.
pub(crate) fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// `300ms` or `5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: 300ms or 5s");
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().map(Duration::from_millis).map_err(|_| bad());
    }
    text.strip_suffix('s').and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs_f64).ok_or_else(bad)
}

/// `0/2000`.
pub(crate) fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// `e5`.
pub(crate) fn epoch(text: &str) -> Result<Epoch, String> {
    text.strip_prefix('e')
        .and_then(|number| number.parse().ok())
        .map(Epoch)
        .ok_or_else(|| format!("{text:?} is no epoch: e5"))
}

/// `1`, or `3<2@0/5000<1@0/3000`: timeline 3, which left 2 at 0/5000, which left 1 at 0/3000.
pub(crate) fn history(text: &str) -> Result<TimelineHistory, String> {
    let bad = || format!("{text:?} is no history: 3<2@0/5000<1@0/3000");
    let mut parts = text.split('<');
    let timeline = parts.next().and_then(|part| part.parse().ok()).map(TimelineId).ok_or_else(bad)?;
    let mut ancestors = Vec::new();
    for part in parts {
        let (parent, switch) = part.split_once('@').ok_or_else(bad)?;
        let parent = parent.parse().map(TimelineId).map_err(|_| bad())?;
        ancestors.push(HistoryEntry { timeline: parent, switch: lsn(switch)?, reason: "story".to_owned() });
    }
    ancestors.reverse();
    TimelineHistory::new(timeline, ancestors).map_err(|error| format!("{error}"))
}
