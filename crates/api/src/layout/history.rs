use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;

use pgbaton_types::{HistoryEntry, Lsn, TimelineHistory, TimelineId};

/// The value of `history`: how the cluster's timeline came to be, oldest row first. Written by the lease holder alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct HistoryRecord {
    /// The rows.
    pub rows: Vec<HistoryRow>,
}

/// One timeline that was left; written as a list, not as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where it was left.
    pub switch: Lsn,
    /// The reason, as PostgreSQL wrote it.
    pub reason: String,
    /// When, in ISO 8601.
    pub time: Option<String>,
    /// Who led the next one first.
    pub leader: Option<String>,
}

impl HistoryRecord {
    /// Reads a record; none when it is not a list of rows, so that the cluster's timeline is unknown.
    pub fn read(text: &str) -> Option<Self> {
        let Ok(Value::Array(rows)) = serde_json::from_str(text) else { return None };
        rows.iter().map(HistoryRow::read).collect::<Option<_>>().map(|rows| Self { rows })
    }

    /// The rows for a timeline; time and leader of a row that `known` has with the same position are kept, and the
    /// newest row takes `time` and `leader` if it is new. Of more than `limit` rows the oldest go; zero is no limit.
    pub fn of(history: &TimelineHistory, known: Option<&Self>, time: &str, leader: &str, limit: u32) -> Self {
        let ancestors = history.ancestors();
        let skipped = if limit == 0 { 0 } else { ancestors.len().saturating_sub(limit as usize) };
        let row = |(index, entry): (usize, &HistoryEntry)| {
            let same = |row: &&HistoryRow| row.timeline == entry.timeline && row.switch == entry.switch;
            let old = known.and_then(|known| known.rows.iter().find(same)).filter(|row| row.time.is_some());
            let newest = index + 1 == ancestors.len();
            HistoryRow {
                timeline: entry.timeline,
                switch: entry.switch,
                reason: entry.reason.clone(),
                time: old.map_or_else(|| newest.then(|| time.to_owned()), |row| row.time.clone()),
                leader: old.map_or_else(|| newest.then(|| leader.to_owned()), |row| row.leader.clone()),
            }
        };
        Self { rows: ancestors.iter().enumerate().skip(skipped).map(row).collect() }
    }

    /// The cluster's timeline: the one after the last row, the first one without rows.
    pub fn timeline(&self) -> TimelineId {
        self.rows.last().map_or(TimelineId::FIRST, |row| row.timeline.next())
    }
}

impl HistoryRow {
    fn read(value: &Value) -> Option<Self> {
        let fields = value.as_array()?;
        let text = |index: usize| fields.get(index).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            timeline: TimelineId(u32::try_from(fields.first()?.as_u64()?).ok()?),
            switch: Lsn(fields.get(1)?.as_u64()?),
            reason: text(2).unwrap_or_default(),
            time: text(3),
            leader: text(4),
        })
    }
}

impl Serialize for HistoryRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&self.timeline)?;
        list.serialize_element(&self.switch)?;
        list.serialize_element(&self.reason)?;
        // The leader has the fifth place, so a time must be there before it, if only as null.
        if self.time.is_some() || self.leader.is_some() {
            list.serialize_element(&self.time)?;
        }
        if let Some(leader) = &self.leader {
            list.serialize_element(leader)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_compact;

    #[test]
    fn rows_are_lists() {
        let text = r#"[[1,83886240,"no recovery target specified"],[2,100,"x","2026-11-20T10:00:00+00:00","b"]]"#;
        let record = HistoryRecord::read(text).unwrap();
        assert_eq!(to_compact(&record).unwrap(), text);
        assert_eq!(record.timeline(), TimelineId(3));
        assert_eq!(HistoryRecord::read("[]").unwrap().timeline(), TimelineId(1));
        for text in ["", "{}", "[1]", "[[]]", "[[\"1\",2]]"] {
            assert_eq!(HistoryRecord::read(text), None, "{text}");
        }
    }

    #[test]
    fn the_newest_row_takes_time_and_leader_and_older_ones_keep_theirs() {
        let two = TimelineHistory::root(TimelineId(1)).fork(TimelineId(2), Lsn(100), "r");
        let first = HistoryRecord::of(&two, None, "t1", "a", 0);
        let three = two.fork(TimelineId(3), Lsn(200), "r");
        let second = HistoryRecord::of(&three, Some(&first), "t2", "b", 0);
        assert_eq!(to_compact(&second).unwrap(), r#"[[1,100,"r","t1","a"],[2,200,"r","t2","b"]]"#);
        assert_eq!(HistoryRecord::of(&three, Some(&second), "t9", "c", 0), second, "known rows do not change");
        assert_eq!(HistoryRecord::of(&three, Some(&second), "t9", "c", 1).rows.len(), 1);
        let without = HistoryRecord::of(&three, None, "t2", "b", 0);
        assert_eq!(to_compact(&without).unwrap(), r#"[[1,100,"r"],[2,200,"r","t2","b"]]"#);
    }
}
