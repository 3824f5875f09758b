//! Reading single records of the write-ahead log from the segment files.
//!
//! Only what the proof of a switchover needs: the header of one record, checked by its CRC. It reads what the server
//! wrote and changes nothing. Layout: PostgreSQL's `access/xlogrecord.h` and `access/xlog_internal.h`, the same in 13
//! to 18.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pgbaton_types::{Lsn, ShutdownCheckpoint, SystemId, TimelineId};

use crate::{ControlFile, ControlFileError, DatabaseState, FileError};

/// Bytes of `XLogRecord`.
const RECORD_HEADER: usize = 24;
/// Where `xl_crc` is in it.
const CRC_OFFSET: usize = 20;
/// Bytes of a page header, and of the longer one at the start of a segment.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
/// Records begin at multiples of this (`MAXIMUM_ALIGNOF` on a host of 64 bits).
const ALIGNMENT: u64 = 8;
/// Largest record that is read. A checkpoint has some 120 bytes; a length beyond this is not one.
const RECORD_MAX: usize = 64 * 1024;

/// The header of a record, whose CRC was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Where the record begins.
    pub start: Lsn,
    /// The first position after it, aligned, as PostgreSQL counts replay and flush positions.
    pub end: Lsn,
    /// `xl_prev`: where the record before it begins.
    pub previous: Lsn,
    /// `xl_info`: what kind of record of its resource manager.
    pub info: u8,
    /// `xl_rmid`: the resource manager; 0 is `XLOG`.
    pub resource_manager: u8,
    /// `xl_crc`.
    pub crc: u32,
}

impl RecordHeader {
    /// Whether this is a checkpoint that a clean shutdown wrote (`XLOG_CHECKPOINT_SHUTDOWN`).
    pub fn is_shutdown_checkpoint(&self) -> bool {
        const INFO_OF_RESOURCE_MANAGER: u8 = 0xF0;
        self.resource_manager == 0 && self.info & INFO_OF_RESOURCE_MANAGER == 0
    }
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The segment cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The control file cannot be read.
    #[error("cannot find the shutdown checkpoint")]
    Control(#[from] ControlFileError),
    /// The server did not stop in order, so that there is no shutdown checkpoint.
    #[error("the server is {}, not shut down: it has no shutdown checkpoint", .0.name())]
    NotShutDown(DatabaseState),
    /// What is at this position is not a whole record.
    #[error("no valid record at {position} in {}: {reason}", path.display())]
    Invalid {
        /// Where the record was expected.
        position: Lsn,
        /// The segment.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Whether this copy holds another server's shutdown checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Possession {
    /// It holds this very record: it has everything that the other server ever wrote.
    Held,
    /// It has not received that far.
    Behind {
        /// The first position after what it received and flushed.
        received: Lsn,
    },
    /// It has received that far, but another history.
    Different {
        /// What differs.
        reason: String,
    },
}

/// The segments of one data directory.
#[derive(Debug, Clone)]
pub struct Wal {
    dir: PathBuf,
    system_id: SystemId,
    segment_size: u64,
    page_size: u64,
}

impl Wal {
    /// The WAL of a data directory with this control file.
    pub fn of(data_dir: &Path, control: &ControlFile) -> Self {
        Self {
            dir: data_dir.join("pg_wal"),
            system_id: control.system_id,
            segment_size: u64::from(control.wal_segment_size),
            page_size: u64::from(control.wal_block_size),
        }
    }

    /// The name of the segment that has this position.
    pub fn segment_name(&self, timeline: TimelineId, position: Lsn) -> String {
        let number = position.0 / self.segment_size;
        let per_file = (1_u64 << 32) / self.segment_size;
        format!("{:08X}{:08X}{:08X}", timeline.0, number / per_file, number % per_file)
    }

    /// The directory with the segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record that begins at `start` on this timeline. Fails when there is none or its CRC is wrong.
    pub fn record_at(&self, timeline: TimelineId, start: Lsn) -> Result<RecordHeader, WalError> {
        let mut reader = Reader { wal: self, timeline, position: start, segment: None };
        let header = reader.take(RECORD_HEADER)?;
        let length = u32_at(&header, 0) as usize;
        if !(RECORD_HEADER..=RECORD_MAX).contains(&length) {
            return Err(self.invalid(timeline, start, "its length is impossible"));
        }
        let body = reader.take(length - RECORD_HEADER)?;
        let crc = u32_at(&header, CRC_OFFSET);
        if crc32c::crc32c_append(crc32c::crc32c(&body), &header[..CRC_OFFSET]) != crc {
            return Err(self.invalid(timeline, start, "its CRC is wrong"));
        }
        let end = Lsn(reader.position.0.next_multiple_of(ALIGNMENT));
        let previous = Lsn(u64::from(u32_at(&header, 8)) | u64::from(u32_at(&header, 12)) << 32);
        Ok(RecordHeader { start, end, previous, info: header[16], resource_manager: header[17], crc })
    }

    fn invalid(&self, timeline: TimelineId, position: Lsn, reason: &'static str) -> WalError {
        WalError::Invalid { position, path: self.dir.join(self.segment_name(timeline, position)), reason }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// The contents of the log from a position on, page headers left out.
struct Reader<'a> {
    wal: &'a Wal,
    timeline: TimelineId,
    position: Lsn,
    segment: Option<(String, File, PathBuf)>,
}

impl Reader<'_> {
    /// The next bytes. Afterwards `position` is right behind the last of them.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, WalError> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let page_start = self.position.0 - self.position.0 % self.wal.page_size;
            let header = self.check_page(page_start)?;
            if self.position.0 == page_start {
                self.position.0 += header;
            } else if self.position.0 < page_start + header {
                return Err(self.wal.invalid(self.timeline, self.position, "it would begin inside a page header"));
            }
            let left_on_page = usize::try_from(page_start + self.wal.page_size - self.position.0).unwrap_or(usize::MAX);
            let part = left_on_page.min(length - bytes.len());
            let read = self.read(self.position, part)?;
            bytes.extend_from_slice(&read);
            self.position.0 += part as u64;
        }
        Ok(bytes)
    }

    /// Checks a page's header and gives its length. A recycled segment has the pages of an older position.
    fn check_page(&mut self, page_start: u64) -> Result<u64, WalError> {
        let begins_segment = page_start.is_multiple_of(self.wal.segment_size);
        let length = if begins_segment { SEGMENT_HEADER } else { PAGE_HEADER };
        let header = self.read(Lsn(page_start), if begins_segment { 40 } else { 24 })?;
        let field = |offset: usize| u64::from(u32_at(&header, offset)) | u64::from(u32_at(&header, offset + 4)) << 32;
        let refuse = |reason| Err(self.wal.invalid(self.timeline, Lsn(page_start), reason));
        if field(8) != page_start {
            return refuse("the page is of another position");
        }
        if u32_at(&header, 4) > self.timeline.0 {
            return refuse("the page is of a later timeline");
        }
        if begins_segment && field(24) != self.wal.system_id.0 {
            return refuse("the segment is of another database cluster");
        }
        Ok(length)
    }

    fn read(&mut self, position: Lsn, length: usize) -> Result<Vec<u8>, WalError> {
        let name = self.wal.segment_name(self.timeline, position);
        if self.segment.as_ref().is_none_or(|(open, ..)| *open != name) {
            let path = self.wal.dir.join(&name);
            let file = File::open(&path).map_err(FileError::at("open", &path))?;
            self.segment = Some((name, file, path));
        }
        let Some((_, file, path)) = &self.segment else { unreachable!("the segment was opened above") };
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, position.0 % self.wal.segment_size) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.wal.invalid(self.timeline, position, "the segment ends before it"))
            }
            Err(error) => Err(FileError::at("read", path)(error).into()),
        }
    }
}

/// The shutdown checkpoint of a primary that stopped in order, as proof material for its successor.
///
/// Fails on a server that was not a primary, or is not shut down: the control file then names no shutdown checkpoint.
pub fn shutdown_checkpoint(data_dir: &Path) -> Result<ShutdownCheckpoint, WalError> {
    let control = ControlFile::read(data_dir)?;
    if control.state != DatabaseState::ShutDown {
        return Err(WalError::NotShutDown(control.state));
    }
    let wal = Wal::of(data_dir, &control);
    let timeline = control.checkpoint_timeline;
    let record = wal.record_at(timeline, control.checkpoint)?;
    if !record.is_shutdown_checkpoint() {
        return Err(wal.invalid(timeline, control.checkpoint, "it is not a shutdown checkpoint"));
    }
    Ok(ShutdownCheckpoint {
        system_id: control.system_id,
        timeline,
        start: record.start,
        end: record.end,
        previous: record.previous,
        crc: record.crc,
    })
}

/// Whether the copy in `data_dir` holds this shutdown checkpoint. `received` is what it received **and flushed** by
/// now. A position alone proves nothing, since a diverged copy can be further; the record itself does.
pub fn holds(data_dir: &Path, checkpoint: &ShutdownCheckpoint, received: Lsn) -> Result<Possession, WalError> {
    let control = ControlFile::read(data_dir)?;
    if control.system_id != checkpoint.system_id {
        let reason = format!("this is database cluster {}, not {}", control.system_id, checkpoint.system_id);
        return Ok(Possession::Different { reason });
    }
    if received < checkpoint.end {
        return Ok(Possession::Behind { received });
    }
    let record = match Wal::of(data_dir, &control).record_at(checkpoint.timeline, checkpoint.start) {
        Ok(record) => record,
        Err(error @ WalError::Invalid { .. }) => return Ok(Possession::Different { reason: error.to_string() }),
        Err(WalError::File(error)) if error.is_missing() => {
            let reason = format!("there is no segment of timeline {} at {}", checkpoint.timeline, checkpoint.start);
            return Ok(Possession::Different { reason });
        }
        Err(error) => return Err(error),
    };
    let found = (record.end, record.previous, record.crc);
    if found == (checkpoint.end, checkpoint.previous, checkpoint.crc) {
        return Ok(Possession::Held);
    }
    let reason = format!(
        "the record at {} follows {} and has CRC {:08X}; expected {} and {:08X}",
        record.start, record.previous, record.crc, checkpoint.previous, checkpoint.crc
    );
    Ok(Possession::Different { reason })
}

/// Segments that wait to be archived, oldest first: a new primary would mark them as archived, which were a gap.
pub fn unarchived_segments(data_dir: &Path) -> Result<Vec<String>, FileError> {
    let dir = data_dir.join("pg_wal/archive_status");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("list", &dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::at("list", &dir))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ready")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_the_server_names_them() {
        let wal = Wal { dir: PathBuf::new(), system_id: SystemId(1), segment_size: 16 << 20, page_size: 8192 };
        assert_eq!(wal.segment_name(TimelineId(1), Lsn(0x0300_0148)), "000000010000000000000003");
        assert_eq!(wal.segment_name(TimelineId(0x1A), Lsn(0x2_FF00_0000)), "0000001A00000002000000FF");
    }
}
