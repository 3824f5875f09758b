//! `global/pg_control`, read directly.
//!
//! `pg_controldata` would cost a process for each look, and a switchover looks every millisecond. The offsets are
//! those of `ControlFileData` in PostgreSQL's `catalog/pg_control.h`, versions 13 to 18, on a host of 64 bits.

use std::fs;
use std::path::Path;

use pgbaton_types::{Lsn, SystemId, TimelineId};

use crate::FileError;

/// How often a torn image is read again. The server writes the file by one call without a lock against readers, so
/// that a reader can see a part of it; the next look is whole unless the disk itself is broken.
const READS_MAX: usize = 50;

/// Smallest file that can hold every field below; the real one has 8192 bytes.
const SIZE_MIN: usize = 296;

/// Version of the layout of PostgreSQL 13 to 16.
const VERSION_13: u32 = 1300;
/// Version of the layout of PostgreSQL 17: the same offsets as before.
const VERSION_17: u32 = 1700;
/// Version of the layout of PostgreSQL 18: one more byte before the nonce, so that the CRC moved.
const VERSION_18: u32 = 1800;

/// What the server says about itself on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The database cluster.
    pub system_id: SystemId,
    /// Version of the file's layout, such as 1300.
    pub version: u32,
    /// Version of the system catalogue.
    pub catalog_version: u32,
    /// What the server was doing at its last change of this file.
    pub state: DatabaseState,
    /// When the file was last written, in seconds since 1970.
    pub written_at: i64,
    /// Where the latest checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// The timeline before it, when the checkpoint began a new one.
    pub previous_timeline: TimelineId,
    /// When that checkpoint was begun, in seconds since 1970.
    pub checkpoint_at: i64,
    /// A standby is consistent only from here on; invalid on a primary.
    pub min_recovery: Lsn,
    /// The timeline of `min_recovery`; none on a primary.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Start of the base backup that is being recovered from.
    pub backup_start: Lsn,
    /// Whether replay must see the end of that backup before the data is consistent.
    pub backup_end_required: bool,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// `wal_log_hints` at the last start.
    pub wal_log_hints: bool,
    /// `max_connections` of the primary, which a standby must not be below.
    pub max_connections: u32,
    /// `max_worker_processes`, likewise.
    pub max_worker_processes: u32,
    /// `max_wal_senders`, likewise.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`, likewise.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`, likewise.
    pub max_locks_per_transaction: u32,
    /// `track_commit_timestamp` at the last start.
    pub track_commit_timestamp: bool,
    /// Bytes in a page of WAL.
    pub wal_block_size: u32,
    /// Bytes in a segment of WAL.
    pub wal_segment_size: u32,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
}

/// `DBState` of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DatabaseState {
    /// Starting up for the first time.
    StartingUp,
    /// Stopped after a shutdown checkpoint: no WAL can be written.
    ShutDown,
    /// A standby that stopped after a restartpoint.
    ShutDownInRecovery,
    /// Writing the shutdown checkpoint.
    ShuttingDown,
    /// Replaying after a crash.
    InCrashRecovery,
    /// A standby, or a restore, replaying.
    InArchiveRecovery,
    /// A primary, or one that crashed.
    InProduction,
}

impl DatabaseState {
    /// The words of `pg_controldata`.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        }
    }

    /// Whether the server ended in order.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }

    fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

/// Why the control file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControlFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is shorter than any version's.
    #[error("global/pg_control has {0} bytes, which is too short")]
    Short(usize),
    /// A version of PostgreSQL that is not known here.
    #[error("global/pg_control has layout version {0}: PostgreSQL 13 to 18 are supported")]
    Version(u32),
    /// Its checksum is wrong, also after reading it again and again.
    #[error("the checksum of global/pg_control is wrong")]
    Checksum,
    /// The checksum is right, but the state is none that is known.
    #[error("global/pg_control has the unknown state {0}")]
    State(u32),
}

impl ControlFile {
    /// Reads the control file of a data directory; blocking, some ten microseconds.
    pub fn read(data_dir: &Path) -> Result<Self, ControlFileError> {
        let path = data_dir.join("global/pg_control");
        let mut reads = 0;
        loop {
            reads += 1;
            let bytes = fs::read(&path).map_err(FileError::at("read", &path))?;
            match Self::parse(&bytes) {
                Err(ControlFileError::Checksum | ControlFileError::Short(_)) if reads < READS_MAX => {
                    std::thread::yield_now();
                }
                done => return done,
            }
        }
    }

    /// Reads the bytes of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        if bytes.len() < SIZE_MIN {
            return Err(ControlFileError::Short(bytes.len()));
        }
        let fields = Fields(bytes);
        let version = fields.u32(8);
        let crc_offset = match version {
            VERSION_13 | VERSION_17 => 288,
            VERSION_18 => 292,
            other => return Err(ControlFileError::Version(other)),
        };
        if crc32c::crc32c(&bytes[..crc_offset]) != fields.u32(crc_offset) {
            return Err(ControlFileError::Checksum);
        }
        let state = fields.u32(16);
        Ok(Self {
            system_id: SystemId(fields.u64(0)),
            version,
            catalog_version: fields.u32(12),
            state: DatabaseState::of(state).ok_or(ControlFileError::State(state))?,
            written_at: fields.i64(24),
            checkpoint: fields.lsn(32),
            redo: fields.lsn(40),
            checkpoint_timeline: TimelineId(fields.u32(48)),
            previous_timeline: TimelineId(fields.u32(52)),
            checkpoint_at: fields.i64(104),
            min_recovery: fields.lsn(136),
            min_recovery_timeline: Some(fields.u32(144)).filter(|number| *number != 0).map(TimelineId),
            backup_start: fields.lsn(152),
            backup_end_required: fields.bool(168),
            wal_level: fields.u32(172),
            wal_log_hints: fields.bool(176),
            max_connections: fields.u32(180),
            max_worker_processes: fields.u32(184),
            max_wal_senders: fields.u32(188),
            max_prepared_transactions: fields.u32(192),
            max_locks_per_transaction: fields.u32(196),
            track_commit_timestamp: fields.bool(200),
            wal_block_size: fields.u32(224),
            wal_segment_size: fields.u32(228),
            data_checksums: fields.u32(252) != 0,
        })
    }

    /// The timeline that the data is on as far as the control file knows: on a standby that of the minimum recovery
    /// point, when it is later than the last restartpoint's.
    pub fn timeline(&self) -> TimelineId {
        self.min_recovery_timeline.map_or(self.checkpoint_timeline, |recovery| recovery.max(self.checkpoint_timeline))
    }
}

/// Fields in the byte order of this host, as the server wrote them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[offset..offset + N]);
        bytes
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(offset))
    }

    fn i64(&self, offset: usize) -> i64 {
        i64::from_ne_bytes(self.bytes(offset))
    }

    fn lsn(&self, offset: usize) -> Lsn {
        Lsn(self.u64(offset))
    }

    fn bool(&self, offset: usize) -> bool {
        self.0[offset] != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with recognisable values and a right checksum.
    fn image(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[0..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&version.to_ne_bytes());
        bytes[16..20].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[32..40].copy_from_slice(&0x300_0148_u64.to_ne_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        let offset = if version == VERSION_18 { 292 } else { 288 };
        let crc = crc32c::crc32c(&bytes[..offset]);
        bytes[offset..offset + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn every_layout_is_read() {
        for version in [VERSION_13, VERSION_17, VERSION_18] {
            let control = ControlFile::parse(&image(version)).unwrap();
            assert_eq!((control.system_id, control.state), (SystemId(7), DatabaseState::ShutDown));
            assert_eq!((control.checkpoint, control.timeline()), (Lsn(0x300_0148), TimelineId(3)));
        }
    }

    #[test]
    fn a_torn_image_or_an_unknown_layout_is_refused() {
        let mut torn = image(VERSION_13);
        torn[40] ^= 1;
        assert!(matches!(ControlFile::parse(&torn), Err(ControlFileError::Checksum)));
        assert!(matches!(ControlFile::parse(&image(1200)), Err(ControlFileError::Version(1200))));
        assert!(matches!(ControlFile::parse(&[0; 100]), Err(ControlFileError::Short(100))));
    }
}
