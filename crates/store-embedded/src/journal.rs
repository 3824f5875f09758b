use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, VERSION};
use crate::disk::{Disk, DiskFile, zero};
use crate::raft_types::alias::{Entry, LogIdT, Vote};

/// Names of segments begin with this; the number follows in hexadecimal.
const SEGMENT_PREFIX: &str = "log-";
/// A segment of zeros, ready for use.
const SPARE: &str = "spare";
/// A segment that is being made or wiped; worth nothing after a crash.
const UNFINISHED: &str = "unfinished";

/// Bytes of a record before its payload: length (4), version (1), kind (1), zero (2), sequence (8), synced (8).
const HEADER_BYTES: usize = 24;
/// Bytes after it: CRC-32C over header and payload.
const TRAILER_BYTES: usize = 4;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system said no.
    #[error("the log cannot be read or written")]
    Io(#[from] io::Error),
    /// Something that had been synced is not readable any more. Going on would be forgetting what was promised.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// What a record says. The numbers are on disk and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    State = 1,
    Entry = 2,
    Vote = 3,
    Truncate = 4,
    Purge = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::State, Self::Entry, Self::Vote, Self::Truncate, Self::Purge].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The first record of each segment: what the segments before it, which may be gone, had established.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StateRecord {
    vote: Option<Vote>,
    purged: Option<LogIdT>,
}

/// Where an entry's payload lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    file: Arc<dyn DiskFile>,
    offset: u64,
    length: usize,
}

impl Place {
    /// Reads the payload, without its version byte.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        self.file.read_at(self.offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// What a log held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogIdT>,
    /// Consecutive entries with their places.
    pub(crate) entries: VecDeque<(LogIdT, Place)>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    file: Arc<dyn DiskFile>,
    /// The highest index of any entry in it, also of those that were truncated later.
    highest_index: Option<u64>,
}

/// The log on disk: an append-only journal in preallocated segments. Nothing is ever overwritten, so a truncation and
/// a vote are records like the entries, and each change costs one sync.
///
/// ```text
///   log-0000000000000001 | State | Entry | Entry | Vote | Truncate | Entry | 0 0 0 ...
///   log-0000000000000002 | State | Entry | Purge | Entry | 0 0 0 0 ...
///   spare                | 0 0 0 ...        (so that a full disk does not stop the next segment)
/// ```
///
/// Every record carries its sequence number, the sequence number up to which everything was synced when it was
/// written, and a CRC. At opening the first record that is not whole ends the log: a tail that was being written
/// when the host stopped, and that nobody was told about. Unless a whole record further on says that the missing one
/// *had* been synced: then the log is damaged and is refused.
///
/// Not thread-safe and blocking: one thread owns it.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    spare: bool,
    offset: u64,
    next_sequence: u64,
    synced_sequence: u64,
    state: StateRecord,
}

impl Journal {
    /// Opens the log on this disk, or makes one where there is none.
    pub(crate) fn open(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<(Self, Recovered), JournalError> {
        let (numbers, spare) = tidy(disk.as_ref(), segment_bytes)?;
        let mut journal = Self {
            disk,
            segment_bytes,
            segments: VecDeque::new(),
            spare,
            offset: 0,
            next_sequence: 1,
            synced_sequence: 0,
            state: StateRecord::default(),
        };
        let mut recovered = Recovered::default();
        if numbers.is_empty() {
            journal.add_segment(1)?;
            journal.append_state()?;
        } else {
            journal.recover(&numbers, &mut recovered)?;
        }
        journal.prepare_spare();
        Ok((journal, recovered))
    }

    /// Appends entries (payloads as [`codec::encode`] made them) and syncs; returns their places.
    pub(crate) fn append(&mut self, entries: &[(u64, Arc<[u8]>)]) -> Result<Vec<Place>, JournalError> {
        let mut places = Vec::with_capacity(entries.len());
        let mut batch = Vec::new();
        for (index, payload) in entries {
            let length = (HEADER_BYTES + payload.len() + TRAILER_BYTES) as u64;
            if self.offset + batch.len() as u64 + length > self.segment_bytes {
                self.write(&batch)?;
                batch.clear();
                self.roll(length)?;
            }
            let segment = self.segments.back_mut().expect("a log has at least one segment");
            segment.highest_index = segment.highest_index.max(Some(*index));
            let offset = self.offset + (batch.len() + HEADER_BYTES) as u64;
            places.push(Place { file: Arc::clone(&segment.file), offset, length: payload.len() });
            self.frame(Kind::Entry, payload, &mut batch);
        }
        self.write(&batch)?;
        self.prepare_spare();
        Ok(places)
    }

    /// Appends the vote and syncs.
    pub(crate) fn save_vote(&mut self, vote: &Vote) -> Result<(), JournalError> {
        self.state.vote = Some(*vote);
        self.append_one(Kind::Vote, &codec::encode(vote))
    }

    /// Notes that entries after `last` do not count any more, and syncs.
    pub(crate) fn truncate_after(&mut self, last: Option<LogIdT>) -> Result<(), JournalError> {
        self.append_one(Kind::Truncate, &codec::encode(&last))
    }

    /// Notes that entries up to `through` are not needed any more, syncs, and gives segments back that hold nothing else.
    pub(crate) fn purge(&mut self, through: LogIdT) -> Result<(), JournalError> {
        self.state.purged = Some(through);
        self.append_one(Kind::Purge, &codec::encode(&through))?;
        while self.segments.len() > 1 && self.segments[0].highest_index <= Some(through.index) {
            self.release_first()?;
        }
        Ok(())
    }

    fn append_one(&mut self, kind: Kind, payload: &[u8]) -> Result<(), JournalError> {
        let length = (HEADER_BYTES + payload.len() + TRAILER_BYTES) as u64;
        if self.offset + length > self.segment_bytes {
            self.roll(length)?;
        }
        let mut batch = Vec::new();
        self.frame(kind, payload, &mut batch);
        self.write(&batch)
    }

    fn append_state(&mut self) -> Result<(), JournalError> {
        let payload = codec::encode(&self.state);
        let mut batch = Vec::new();
        self.frame(Kind::State, &payload, &mut batch);
        self.write(&batch)
    }

    fn frame(&mut self, kind: Kind, payload: &[u8], batch: &mut Vec<u8>) {
        let start = batch.len();
        let length = u32::try_from(payload.len()).expect("a record is smaller than a segment");
        batch.extend_from_slice(&length.to_le_bytes());
        batch.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
        batch.extend_from_slice(&self.next_sequence.to_le_bytes());
        batch.extend_from_slice(&self.synced_sequence.to_le_bytes());
        batch.extend_from_slice(payload);
        let crc = crc32c::crc32c(&batch[start..]);
        batch.extend_from_slice(&crc.to_le_bytes());
        self.next_sequence += 1;
    }

    fn write(&mut self, batch: &[u8]) -> Result<(), JournalError> {
        if batch.is_empty() {
            return Ok(());
        }
        let segment = self.segments.back().expect("a log has at least one segment");
        segment.file.write_at(self.offset, batch)?;
        segment.file.sync()?;
        self.offset += batch.len() as u64;
        self.synced_sequence = self.next_sequence - 1;
        Ok(())
    }

    fn roll(&mut self, wanted_bytes: u64) -> Result<(), JournalError> {
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        self.add_segment(number)?;
        self.append_state()?;
        assert!(
            self.offset + wanted_bytes <= self.segment_bytes,
            "a record of {wanted_bytes} bytes does not fit a segment; transactions are limited to less"
        );
        Ok(())
    }

    fn add_segment(&mut self, number: u64) -> Result<(), JournalError> {
        let name = segment_name(number);
        if self.spare {
            self.disk.rename(SPARE, &name)?;
            self.spare = false;
        } else {
            self.disk.create(UNFINISHED, self.segment_bytes)?;
            self.disk.rename(UNFINISHED, &name)?;
        }
        // Before the first record: a segment whose name is lost takes its acknowledged records with it.
        self.disk.sync_directory()?;
        let file = self.disk.open(&name)?;
        self.segments.push_back(Segment { number, file, highest_index: None });
        self.offset = 0;
        Ok(())
    }

    /// Without a spare the log goes on; it then stops only when this segment is full as well as the disk.
    fn prepare_spare(&mut self) {
        if self.spare {
            return;
        }
        let made = self
            .disk
            .create(UNFINISHED, self.segment_bytes)
            .and_then(|_file| self.disk.rename(UNFINISHED, SPARE))
            .and_then(|()| self.disk.sync_directory());
        match made {
            Ok(()) => self.spare = true,
            Err(error) => tracing::warn!(%error, "no spare segment could be made for the store's log"),
        }
    }

    fn release_first(&mut self) -> Result<(), JournalError> {
        let segment = self.segments.pop_front().expect("checked by the caller");
        let name = segment_name(segment.number);
        if self.spare {
            self.disk.remove(&name)?;
            self.disk.sync_directory()?;
            return Ok(());
        }
        // Out of the log first, durably; only then may its content go.
        self.disk.rename(&name, UNFINISHED)?;
        self.disk.sync_directory()?;
        // Its own blocks again: a full disk has no others.
        zero(segment.file.as_ref(), 0, self.segment_bytes)?;
        segment.file.sync()?;
        self.disk.rename(UNFINISHED, SPARE)?;
        self.disk.sync_directory()?;
        self.spare = true;
        Ok(())
    }

    fn recover(&mut self, numbers: &[u64], recovered: &mut Recovered) -> Result<(), JournalError> {
        let mut expected = None;
        for (position, number) in numbers.iter().enumerate() {
            if position > 0 && *number != numbers[position - 1] + 1 {
                return Err(JournalError::Damaged(format!("segment {} is missing", segment_name(number - 1))));
            }
            let file = self.disk.open(&segment_name(*number))?;
            let mut bytes = vec![0; usize::try_from(self.segment_bytes).unwrap_or(usize::MAX)];
            file.read_at(0, &mut bytes)?;
            self.segments.push_back(Segment { number: *number, file: Arc::clone(&file), highest_index: None });
            let end = self.replay(&bytes, &mut expected, recovered)?;
            let missing = expected.unwrap_or(1);
            if bytes[end..].iter().any(|byte| *byte != 0) {
                let later = synced_after(&bytes[end..]);
                if later.is_some_and(|synced| synced >= missing) {
                    return Err(damaged(*number, end, missing));
                }
                zero(file.as_ref(), end as u64, self.segment_bytes)?;
                file.sync()?;
                tracing::info!(segment = number, offset = end, "cut an unfinished tail off the store's log");
            }
            self.offset = end as u64;
            let last = position + 1 == numbers.len();
            if end == 0 && (!last || position == 0) {
                return Err(damaged(*number, end, missing));
            }
        }
        let next = expected.unwrap_or(1);
        self.next_sequence = next;
        self.synced_sequence = next - 1;
        if self.offset == 0 {
            self.append_state()?;
        }
        recovered.vote = self.state.vote;
        recovered.purged = self.state.purged;
        Ok(())
    }

    /// Replays the whole records of one segment; returns where they end.
    fn replay(
        &mut self,
        bytes: &[u8],
        expected: &mut Option<u64>,
        recovered: &mut Recovered,
    ) -> Result<usize, JournalError> {
        let mut offset = 0;
        while let Some(record) = parse(&bytes[offset..]) {
            let number = self.segments.back().map_or(0, |segment| segment.number);
            if let Some(expected) = *expected {
                if record.sequence > expected && record.synced >= expected {
                    return Err(damaged(number, offset, expected));
                }
                if record.sequence != expected {
                    break;
                }
            }
            if (offset == 0) != (record.kind == Kind::State) {
                return Err(JournalError::Damaged(format!(
                    "segment {} has its records mixed up",
                    segment_name(number)
                )));
            }
            let place_offset = (offset + HEADER_BYTES) as u64;
            self.replay_one(&record, place_offset, recovered).map_err(|error| {
                JournalError::Damaged(format!("record {} in {}: {error}", record.sequence, segment_name(number)))
            })?;
            *expected = Some(record.sequence + 1);
            offset += HEADER_BYTES + record.payload.len() + TRAILER_BYTES;
        }
        Ok(offset)
    }

    fn replay_one(&mut self, record: &Record<'_>, offset: u64, recovered: &mut Recovered) -> Result<(), CodecError> {
        let entries = &mut recovered.entries;
        match record.kind {
            Kind::State => self.state = codec::decode(record.payload)?,
            Kind::Vote => self.state.vote = Some(codec::decode(record.payload)?),
            Kind::Entry => {
                let entry: Entry = codec::decode(record.payload)?;
                let log_id = entry.log_id();
                let segment = self.segments.back_mut().expect("the segment that is replayed");
                segment.highest_index = segment.highest_index.max(Some(log_id.index));
                let place = Place { file: Arc::clone(&segment.file), offset, length: record.payload.len() };
                entries.push_back((log_id, place));
            }
            Kind::Truncate => {
                let last: Option<LogIdT> = codec::decode(record.payload)?;
                while entries.back().is_some_and(|(log_id, _)| Some(log_id.index) > last.map(|last| last.index)) {
                    entries.pop_back();
                }
            }
            Kind::Purge => self.state.purged = Some(codec::decode(record.payload)?),
        }
        let purged = self.state.purged.map(|purged| purged.index);
        while entries.front().is_some_and(|(log_id, _)| Some(log_id.index) <= purged) {
            entries.pop_front();
        }
        Ok(())
    }
}

fn damaged(segment: u64, offset: usize, missing: u64) -> JournalError {
    JournalError::Damaged(format!(
        "record {missing} in {} at byte {offset} is not readable, although it had been synced. Remove the store's data \
         directory of this member: it then joins again as a new voter",
        segment_name(segment)
    ))
}

fn segment_name(number: u64) -> String {
    format!("{SEGMENT_PREFIX}{number:016x}")
}

/// The numbers of the segments in order, and whether there is a spare; leftovers of a crash are removed.
fn tidy(disk: &dyn Disk, segment_bytes: u64) -> Result<(Vec<u64>, bool), JournalError> {
    let mut numbers = Vec::new();
    let mut spare = false;
    for name in disk.names()? {
        if let Some(number) = name.strip_prefix(SEGMENT_PREFIX) {
            let number = u64::from_str_radix(number, 16)
                .map_err(|_| JournalError::Damaged(format!("the file {name} does not belong here")))?;
            numbers.push(number);
        } else if name == UNFINISHED {
            disk.remove(&name)?;
        } else if name == SPARE {
            spare = disk.open(SPARE)?.size()? == segment_bytes;
        }
    }
    numbers.sort_unstable();
    Ok((numbers, spare))
}

struct Record<'a> {
    kind: Kind,
    sequence: u64,
    synced: u64,
    payload: &'a [u8],
}

/// The whole record at the beginning of these bytes, if there is one.
fn parse(bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let (length, rest) = header.split_first_chunk::<4>()?;
    if rest[0] != VERSION || rest[2..4] != [0, 0] {
        return None;
    }
    let kind = Kind::from_byte(rest[1])?;
    let end = HEADER_BYTES.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let crc = bytes.get(end..)?.first_chunk::<TRAILER_BYTES>()?;
    if crc32c::crc32c(&bytes[..end]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let sequence = u64::from_le_bytes(*rest[4..].first_chunk()?);
    let synced = u64::from_le_bytes(*rest[12..].first_chunk()?);
    Some(Record { kind, sequence, synced, payload: &bytes[HEADER_BYTES..end] })
}

/// The highest "synced up to" of any whole record anywhere in these bytes.
fn synced_after(bytes: &[u8]) -> Option<u64> {
    (0..bytes.len()).filter_map(|offset| parse(&bytes[offset..])).map(|record| record.synced).max()
}
