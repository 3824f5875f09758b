use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::journal::JournalError;

/// The two files. The newer whole one counts; the next snapshot goes into the other one.
const NAMES: [&str; 2] = ["snapshot-0", "snapshot-1"];

/// The size with which they are made, in bytes: the state of a cluster is some kilobytes, so that the next snapshot
/// finds its blocks also on a full disk.
const INITIAL_BYTES: u64 = 256 * 1024;

/// Bytes before the payload: sequence (8), length (4), CRC-32C of sequence, length and payload (4).
const HEADER_BYTES: usize = 16;

/// Snapshots in two files that are written in turn. A crash in the middle of writing leaves the other one.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    files: [Arc<dyn DiskFile>; 2],
    /// The sequence of the newest; its parity says in which file it is.
    sequence: u64,
}

impl SnapshotFiles {
    /// Opens or makes the files; returns the newest whole snapshot.
    pub(crate) fn open(disk: &dyn Disk) -> Result<(Self, Option<Vec<u8>>), JournalError> {
        let names = disk.names()?;
        for name in NAMES {
            if !names.iter().any(|found| found == name) {
                let unfinished = format!("{name}.unfinished");
                disk.create(&unfinished, INITIAL_BYTES)?;
                disk.rename(&unfinished, name)?;
                disk.sync_directory()?;
            }
        }
        let files = [disk.open(NAMES[0])?, disk.open(NAMES[1])?];
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for file in &files {
            let found = read(file.as_ref())?;
            if found.as_ref().map(|(sequence, _)| *sequence) > newest.as_ref().map(|(sequence, _)| *sequence) {
                newest = found;
            }
        }
        let sequence = newest.as_ref().map_or(0, |(sequence, _)| *sequence);
        Ok((Self { files, sequence }, newest.map(|(_, payload)| payload)))
    }

    /// Writes a snapshot and syncs it.
    pub(crate) fn save(&mut self, payload: &[u8]) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
        let file = &self.files[usize::from(sequence % 2 == 1)];
        file.write_at(0, &bytes)?;
        file.sync()?;
        self.sequence = sequence;
        Ok(())
    }
}

fn read(file: &dyn DiskFile) -> io::Result<Option<(u64, Vec<u8>)>> {
    let size = file.size()?;
    if size < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    file.read_at(0, &mut header)?;
    let [sequence, rest] = [&header[..8], &header[8..]];
    let sequence = u64::from_le_bytes(*sequence.first_chunk().expect("8 bytes"));
    let length = u32::from_le_bytes(*rest[..4].first_chunk().expect("4 bytes"));
    let crc = u32::from_le_bytes(*rest[4..].first_chunk().expect("4 bytes"));
    if sequence == 0 || u64::from(length) > size - HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_at(HEADER_BYTES as u64, &mut payload)?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &payload);
    Ok((found == crc).then_some((sequence, payload)))
}
