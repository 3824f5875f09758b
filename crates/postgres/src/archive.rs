//! Archiving what a stopped server left: the segments that still wait, by the server's own `archive_command`.
//!
//! A new primary takes what it streamed for archived already, so that nobody else would. Never to be used beside the
//! archiver of a server that is a primary.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::command::{CommandError, Tool};
use crate::file::FileError;
use crate::installation::Program;
use crate::{ServerSpec, unarchived_segments};

/// How long `postgres -C` may take to tell one setting, at most.
const SETTING_TIME: Duration = Duration::from_secs(10);

/// Why nothing could be archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// What waits is not known, or what was archived could not be noted.
    #[error(transparent)]
    File(#[from] FileError),
    /// The server's settings could not be asked for.
    #[error("cannot tell the server's archive settings")]
    Settings(#[source] CommandError),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archived {
    /// Files of `pg_wal` that are archived now, in their order.
    pub done: Vec<String>,
    /// Files that still wait.
    pub left: Vec<String>,
    /// Why they do.
    pub why: Option<String>,
    /// They do for want of time only: the command has not failed.
    pub late: bool,
}

impl Archived {
    fn too_late(self, within: Duration) -> Self {
        Self { why: Some(format!("not done within {} s", within.as_secs())), late: true, ..self }
    }
}

/// Archives what waits in `pg_wal/archive_status`, in the archiver's order, until all is done, a command fails, `within` is
/// over or `go_on` says no. With nothing waiting no program is run; a server whose archive settings mean that it archives as a
/// standby too (`always`), or not at all (`off`), is left alone.
///
/// # Errors
/// The settings or the directory cannot be read. A command that fails is no error but [`Archived::why`].
pub async fn archive_waiting(
    spec: &ServerSpec,
    within: Duration,
    go_on: impl Fn() -> bool,
) -> Result<Archived, ArchiveError> {
    let deadline = Instant::now() + within;
    let mut archived = Archived { left: unarchived_segments(&spec.data_dir)?, ..Archived::default() };
    if archived.left.is_empty() {
        return Ok(archived);
    }
    let asked = timeout_at(deadline, async {
        let mode = setting(spec, "archive_mode").await?;
        Ok::<_, ArchiveError>((mode, setting(spec, "archive_command").await?))
    });
    let Ok(settings) = asked.await else {
        return Ok(archived.too_late(within));
    };
    let (mode, command) = settings?;
    if mode != "on" {
        return Ok(Archived::default());
    }
    if command.is_empty() {
        archived.why = Some("archive_command is empty".to_owned());
        return Ok(archived);
    }
    while let Some(name) = archived.left.first().filter(|_| go_on()).cloned() {
        let line = filled(&command, &name);
        let tool = Tool::new(Path::new("/bin/sh")).args(["-c".to_owned(), line]).directory(&spec.data_dir);
        match timeout_at(deadline, tool.deadline(within).run(|_| {})).await {
            Ok(Ok(())) => {}
            Ok(Err(CommandError::Stalled { .. })) | Err(_) => {
                archived = archived.too_late(within);
                break;
            }
            Ok(Err(error)) => {
                archived.why = Some(format!("archive_command: {error}"));
                break;
            }
        }
        note_done(&spec.data_dir, &name)?;
        archived.done.push(archived.left.remove(0));
    }
    Ok(archived)
}

/// A setting as a server of this directory would have it, without running one.
async fn setting(spec: &ServerSpec, name: &str) -> Result<String, ArchiveError> {
    let program: PathBuf = spec.installation.path(Program::Postgres);
    let config = format!("--config-file={}", spec.file("postgresql.conf").display());
    let tool = Tool::new(&program).arg("-D").arg(OsString::from(&spec.data_dir)).arg(config).arg("-C").arg(name);
    let text = tool.deadline(SETTING_TIME).output().await.map_err(ArchiveError::Settings)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// `archive_command` for one file: `%p` is its path below the data directory, `%f` its name, `%%` a percent sign (PostgreSQL
/// documentation, "Setting Up WAL Archiving").
fn filled(command: &str, name: &str) -> String {
    let mut line = String::new();
    let mut signs = command.chars().peekable();
    while let Some(sign) = signs.next() {
        let meant = if sign == '%' { signs.peek().copied() } else { None };
        match meant {
            Some('p') => line.push_str(&format!("pg_wal/{name}")),
            Some('f') => line.push_str(name),
            Some('%') => line.push('%'),
            _ => {
                line.push(sign);
                continue;
            }
        }
        signs.next();
    }
    line
}

/// The server's own mark for a file that is archived.
fn note_done(data_dir: &Path, name: &str) -> Result<(), FileError> {
    let dir = data_dir.join("pg_wal/archive_status");
    let ready = dir.join(format!("{name}.ready"));
    fs::rename(&ready, dir.join(format!("{name}.done"))).map_err(FileError::at("rename", &ready))?;
    pgbaton_sys::durable::sync_directory(&dir).map_err(|error| FileError {
        operation: error.step,
        path: error.path,
        source: error.source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_filled_as_the_server_does_it() {
        assert_eq!(filled("cp \"%p\" /a/%f", "0001"), "cp \"pg_wal/0001\" /a/0001");
        assert_eq!(filled("date +%%s; x %d %", "0001"), "date +%s; x %d %");
        assert_eq!(filled("%%f", "0001"), "%f");
    }
}
