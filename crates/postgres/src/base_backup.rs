//! Copying another server.

use std::time::Duration;

use crate::ServerSpec;
use crate::command::Tool;
use crate::conninfo::{Upstream, backup_conninfo, write_passfile};
use crate::data_dir::{self, Operation};
use crate::initdb::{InitdbError, check_free};
use crate::installation::Program;
use crate::options::{ToolOption, allowed_arguments};
use crate::spec::text;

/// Options that pgbaton sets by itself, or that would give something else than a data directory.
const FORBIDDEN: [&str; 18] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
    "compress",
    "progress",
    "slot",
    "create-slot",
    "no-slot",
    "target",
    "write-recovery-conf",
];

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes that there were when it began; the source may grow meanwhile.
    pub total_bytes: u64,
}

/// Why there is no copy: the same things as for a new database cluster.
pub type BaseBackupError = InitdbError;

/// Copies `source` into the empty or missing data directory. A database that is there already is not touched: the
/// caller quarantines it first. Until the end the directory counts as incomplete; dropping the future kills the copy.
///
/// WAL streams beside the copy, by the member's slot when there is one, so that nothing that the copy needs is
/// removed meanwhile. `stalled_after` bounds the silence of `pg_basebackup`, which reports once a second.
pub async fn base_backup(
    spec: &ServerSpec,
    source: &Upstream,
    options: &[ToolOption],
    stalled_after: Duration,
    mut progress: impl FnMut(Progress),
) -> Result<(), BaseBackupError> {
    let mut given = allowed_arguments("pg_basebackup", options, &FORBIDDEN);
    check_free(spec)?;
    write_passfile(spec)?;
    data_dir::begin(&spec.data_dir, Operation::BaseBackup)?;
    let staging = data_dir::staging(&spec.data_dir)?;
    if !options.iter().any(|option| option.to_string().starts_with("--checkpoint")) {
        given.push("--checkpoint=fast".to_owned());
    }
    given.extend(source.slot.as_ref().map(|slot| format!("--slot={slot}")));
    let tool = Tool::new(&spec.installation.path(Program::BaseBackup))
        .arg(format!("--pgdata={}", text(&staging)))
        .args(["--wal-method=stream".to_owned(), "--progress".to_owned(), "--no-password".to_owned()])
        .arg(format!("--dbname={}", backup_conninfo(spec, &source.address)))
        .args(given)
        .in_english()
        .env("PGPASSFILE", &spec.pgpass)
        .deadline(stalled_after);
    tool.run(|line| match parse_progress(line) {
        Some(step) => progress(step),
        None => tracing::debug!(line, "pg_basebackup"),
    })
    .await?;
    data_dir::install_staging(&spec.data_dir)?;
    Ok(())
}

/// Reads `12345/67890 kB (18%), 0/1 tablespace`.
fn parse_progress(line: &str) -> Option<Progress> {
    let (counts, _) = line.trim().split_once(" kB ")?;
    let (done, total) = counts.split_once('/')?;
    let bytes = |text: &str| text.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024);
    Some(Progress { done_bytes: bytes(done)?, total_bytes: bytes(total)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        let step = Progress { done_bytes: 12345 * 1024, total_bytes: 67890 * 1024 };
        assert_eq!(parse_progress("12345/67890 kB (18%), 0/1 tablespace"), Some(step));
        assert_eq!(parse_progress("    0/67890 kB (0%), 0/1 tablespace (...)").map(|step| step.done_bytes), Some(0));
        assert_eq!(parse_progress("waiting for checkpoint"), None);
    }
}
