//! Bringing a diverged copy back to another server's history.
//!
//! Whether to rewind is decided elsewhere, from the histories. The data directory must have been shut down in order:
//! after a crash the guard first starts and stops it as a standby without upstream.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_types::{Lsn, TimelineId};

use crate::command::{CommandError, Tool};
use crate::conninfo::{rewind_conninfo, write_passfile};
use crate::data_dir::{self, DataDirError, Operation};
use crate::file::{remove_if_exists, sync_dir};
use crate::installation::Program;
use crate::options::{ToolOption, allowed_arguments};
use crate::spec::text;
use crate::{ControlFile, ControlFileError, DatabaseState, FileError, HostPort, ServerSpec, Wal};

/// Options that pgbaton sets by itself, or that would leave something else than a standby (Patroni's list).
const FORBIDDEN: [&str; 11] = [
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
    "progress",
];

/// Most segments that are saved before a rewind: what an old primary wrote alone is short, and the disk may be nearly
/// full.
const SAVED_SEGMENTS_MAX: usize = 64;

/// What `pg_rewind --progress` says right before it changes the first file of the target.
const BEFORE_FIRST_WRITE: &str = "need to copy";

/// Why there was no rewind.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// Neither checksums nor `wal_log_hints`: which pages changed is not in the WAL.
    #[error("pg_rewind needs data checksums or wal_log_hints = on, and this database has neither")]
    Impossible,
    /// The server crashed or runs.
    #[error("the server is {}: it must be shut down in order before a rewind", .0.name())]
    NotShutDown(DatabaseState),
    /// The program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The control file cannot be read.
    #[error("cannot rewind")]
    Control(#[from] ControlFileError),
    /// The directory cannot be marked.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Whether `pg_rewind` can work on this database at all.
pub fn can_rewind(control: &ControlFile) -> bool {
    control.data_checksums || control.wal_log_hints
}

/// Where the WAL that only this copy has is kept before a rewind: beside the data directory, because `pg_rewind`
/// removes everything inside it that the source does not have.
pub fn saved_wal_dir(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push(".saved_wal");
    data_dir.with_file_name(name)
}

/// Copies the segments of `timeline` from the one with `parted` on to [`saved_wal_dir`], so that what a rewind throws
/// away can still be looked at with `pg_waldump`. What an earlier rewind saved is replaced. Gives the names, at most
/// the first 64.
pub fn save_wal_tail(data_dir: &Path, timeline: TimelineId, parted: Lsn) -> Result<Vec<String>, RewindError> {
    let control = ControlFile::read(data_dir)?;
    let wal = Wal::of(data_dir, &control);
    let first = wal.segment_name(timeline, parted);
    let mut names = Vec::new();
    for entry in fs::read_dir(wal.dir()).map_err(FileError::at("list", wal.dir()))? {
        let name = entry.map_err(FileError::at("list", wal.dir()))?.file_name().to_string_lossy().into_owned();
        // Recycled segments have names beyond the end of the WAL and nothing of ours in them.
        let ours = name.len() == first.len() && name[..8] == first[..8] && name >= first;
        if ours && name <= wal.segment_name(timeline, end_of_wal(&control)) {
            names.push(name);
        }
    }
    names.sort();
    names.truncate(SAVED_SEGMENTS_MAX);
    let dir = saved_wal_dir(data_dir);
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(FileError::at("remove", &dir))?;
    }
    fs::create_dir(&dir).map_err(FileError::at("create", &dir))?;
    for name in &names {
        let copy = dir.join(name);
        fs::copy(wal.dir().join(name), &copy).map_err(FileError::at("write", &copy))?;
        fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(FileError::at("sync", &copy))?;
    }
    sync_dir(&dir)?;
    Ok(names)
}

/// The last position that a stopped server is known to have.
fn end_of_wal(control: &ControlFile) -> Lsn {
    control.checkpoint.max(control.min_recovery)
}

/// Rewinds the stopped server to `source`, a primary that has written a checkpoint since its promotion. Afterwards
/// the directory has the source's configuration files and is started as a standby by [`crate::prepare_start`]. Until
/// the end it counts as incomplete, and a rewind that failed after its first write leaves it so; it can be repeated,
/// or the directory quarantined.
pub async fn rewind(
    spec: &ServerSpec,
    source: &HostPort,
    options: &[ToolOption],
    stalled_after: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<(), RewindError> {
    let given = allowed_arguments("pg_rewind", options, &FORBIDDEN);
    let control = ControlFile::read(&spec.data_dir)?;
    if !can_rewind(&control) {
        return Err(RewindError::Impossible);
    }
    if !control.state.is_clean() {
        return Err(RewindError::NotShutDown(control.state));
    }
    write_passfile(spec)?;
    data_dir::begin(&spec.data_dir, Operation::Rewind)?;
    let tool = Tool::new(&spec.installation.path(Program::Rewind))
        .arg(format!("--target-pgdata={}", text(&spec.data_dir)))
        .arg(format!("--source-server={}", rewind_conninfo(spec, source)))
        // Only the guard starts a server, also not one in single-user mode.
        .args(["--no-ensure-shutdown".to_owned(), "--progress".to_owned()])
        .args(given)
        .in_english()
        .env("PGPASSFILE", &spec.pgpass)
        .env("PGOPTIONS", "-c statement_timeout=0")
        .deadline(stalled_after);
    let mut touched = false;
    let result = tool
        .run(|line| {
            touched |= line.contains(BEFORE_FIRST_WRITE);
            on_line(line);
        })
        .await;
    if let Err(error) = result {
        if !touched {
            // An unreachable source must not cost a copy that may be the only one.
            data_dir::finish(&spec.data_dir)?;
        }
        return Err(error.into());
    }
    // The source is a primary, but its base file and its slots are not ours to judge: only what would promote is
    // removed.
    remove_if_exists(&spec.file("recovery.signal"))?;
    crate::write_standby_signal(&spec.data_dir)?;
    data_dir::finish(&spec.data_dir)?;
    Ok(())
}
