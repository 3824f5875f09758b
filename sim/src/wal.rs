use pgbaton_types::{Lsn, ShutdownCheckpoint, SystemId, TimelineId};

/// Bytes in a segment of WAL (PostgreSQL documentation, `wal_segment_size`, the default).
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;

/// Where the WAL of a new cluster begins: `initdb` leaves the first segment behind.
const FIRST: Lsn = Lsn(SEGMENT_BYTES);

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it begins.
    pub(crate) start: Lsn,
    /// The first position after it.
    pub(crate) end: Lsn,
    /// On which timeline it was written.
    pub(crate) timeline: TimelineId,
    /// The same in two logs only if everything up to and with this record is the same: a digest over the chain.
    pub(crate) chain: u64,
}

/// The WAL of one copy of the data, from the first record on. Unlike in a real one nothing is ever recycled, and two logs can
/// be compared exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wal {
    records: Vec<Record>,
}

impl Wal {
    /// Appends a record of `bytes` on `timeline`. `id` is unique in the whole run.
    pub(crate) fn append(&mut self, timeline: TimelineId, bytes: u64, id: u64) -> Record {
        let (start, before) = self.records.last().map_or((FIRST, 0), |last| (last.end, last.chain));
        let chain = (before ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ id;
        let record = Record { start, end: Lsn(start.0 + bytes), timeline, chain };
        self.records.push(record);
        record
    }

    /// The first position after the last record.
    pub(crate) fn end(&self) -> Lsn {
        self.records.last().map_or(FIRST, |last| last.end)
    }

    /// The timeline of the last record.
    pub(crate) fn timeline(&self) -> TimelineId {
        self.records.last().map_or(TimelineId::FIRST, |last| last.timeline)
    }

    /// The first position after the first `count` records.
    pub(crate) fn position_after(&self, count: usize) -> Lsn {
        count.checked_sub(1).and_then(|last| self.records.get(last)).map_or(FIRST, |record| record.end)
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many records both logs begin with.
    pub(crate) fn common(&self, other: &Self) -> usize {
        let shorter = self.len().min(other.len());
        if shorter == 0 || self.records[shorter - 1].chain == other.records[shorter - 1].chain {
            return shorter;
        }
        // Chains agree up to some record and never again after it.
        let (mut same, mut different) = (0, shorter);
        while same < different {
            let middle = usize::midpoint(same, different);
            if self.records[middle].chain == other.records[middle].chain {
                same = middle + 1;
            } else {
                different = middle;
            }
        }
        same
    }

    /// Whether everything in `other` is also here.
    pub(crate) fn holds_all_of(&self, other: &Self) -> bool {
        self.common(other) == other.len()
    }

    /// Both logs go on after their common part, on timelines of the same number.
    pub(crate) fn parted_on_one_number(&self, other: &Self) -> bool {
        let common = self.common(other);
        let next = self.records.get(common).zip(other.records.get(common));
        next.is_some_and(|(own, theirs)| own.timeline == theirs.timeline)
    }

    /// Takes over what `source` has beyond the end of this log, of which `source` holds everything.
    pub(crate) fn extend_from(&mut self, source: &Self) {
        let have = self.len();
        self.records.extend_from_slice(&source.records[have..]);
    }

    /// Forgets the last record. Only for tests of the invariants.
    #[cfg(test)]
    pub(crate) fn drop_last(&mut self) {
        self.records.pop();
    }

    /// The last record as a shutdown checkpoint.
    pub(crate) fn last_as_checkpoint(&self, system_id: SystemId) -> Option<ShutdownCheckpoint> {
        self.records.last().map(|last| self.checkpoint_of(system_id, last))
    }

    /// Whether this log has that very record.
    pub(crate) fn has(&self, checkpoint: &ShutdownCheckpoint) -> bool {
        let found = self.records.binary_search_by_key(&checkpoint.start, |record| record.start);
        found.is_ok_and(|index| self.checkpoint_of(checkpoint.system_id, &self.records[index]) == *checkpoint)
    }

    fn checkpoint_of(&self, system_id: SystemId, record: &Record) -> ShutdownCheckpoint {
        let index = self.records.partition_point(|other| other.start < record.start);
        let previous = index.checked_sub(1).map_or(Lsn::INVALID, |before| self.records[before].start);
        let crc = u32::try_from(record.chain & 0xFFFF_FFFF).unwrap_or(0);
        ShutdownCheckpoint { system_id, timeline: record.timeline, start: record.start, end: record.end, previous, crc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_agree_up_to_where_they_parted() {
        let mut one = Wal::default();
        for id in 1..=20 {
            one.append(TimelineId::FIRST, 100, id);
        }
        let mut other = one.clone();
        one.append(TimelineId::FIRST, 100, 21);
        for id in 22..30 {
            other.append(TimelineId(2), 100, id);
        }
        assert_eq!(one.common(&other), 20);
        assert!(!other.holds_all_of(&one), "a longer log need not hold a shorter one");
        let checkpoint = one.last_as_checkpoint(SystemId(1)).unwrap();
        assert!(one.has(&checkpoint));
        assert!(!other.has(&checkpoint), "another record at the same position is no proof");
    }
}
