//! A new database cluster.

use std::fs;
use std::time::Duration;

use crate::ServerSpec;
use crate::command::{CommandError, Tool};
use crate::data_dir::{self, DataDirError, DataDirState, Operation};
use crate::file::{FileError, remove_if_exists, replace_if_changed};
use crate::installation::Program;
use crate::options::{ForbiddenOption, ToolOption, arguments};
use crate::spec::text;

/// Options that pgbaton sets by itself, or that would make the result unusable (Patroni's list).
const FORBIDDEN: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Why there is no new database cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitdbError {
    /// An option that may not be given.
    #[error(transparent)]
    Option(#[from] ForbiddenOption),
    /// The program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is something already: nothing was touched.
    #[error("data directory {path} is not empty: {found}")]
    NotEmpty {
        /// The directory.
        path: String,
        /// What is there.
        found: String,
    },
}

/// Refuses anything but an empty or missing directory; removes what an earlier attempt at a new copy left.
pub(crate) fn check_free(spec: &ServerSpec) -> Result<(), InitdbError> {
    let found = match data_dir::inspect(&spec.data_dir)? {
        DataDirState::Missing | DataDirState::Empty => return Ok(()),
        DataDirState::Incomplete { operation: Operation::Initdb | Operation::BaseBackup } => {
            return Ok(data_dir::clear_unfinished(&spec.data_dir)?);
        }
        DataDirState::Incomplete { operation } => format!("an unfinished {}", operation.name()),
        DataDirState::Database { control, .. } => format!("database cluster {}", control.system_id),
        DataDirState::NotADatabase { entries } => entries.join(", "),
    };
    Err(InitdbError::NotEmpty { path: text(&spec.data_dir), found })
}

/// Makes a new database cluster in the data directory. The superuser gets its password at once, from a file that only
/// its owner can read and that is gone afterwards. Until the end the directory counts as incomplete.
pub async fn initdb(spec: &ServerSpec, options: &[ToolOption], within: Duration) -> Result<(), InitdbError> {
    let given = arguments("initdb", options, &FORBIDDEN)?;
    check_free(spec)?;
    data_dir::begin(&spec.data_dir, Operation::Initdb)?;
    let staging = data_dir::staging(&spec.data_dir)?;
    let superuser = &spec.authentication.superuser;
    let mut tool = Tool::new(&spec.installation.path(Program::Initdb))
        .arg(format!("--pgdata={}", text(&staging)))
        .arg(format!("--username={}", superuser.username))
        .args(given)
        .deadline(within);
    let password_file = spec.file("pgbaton.password");
    if let Some(password) = &superuser.password {
        replace_if_changed(&password_file, &format!("{}\n", password.expose()), 0o600)?;
        tool = tool.arg(format!("--pwfile={}", text(&password_file)));
    }
    let done = tool.run(|line| tracing::debug!(line, "initdb")).await;
    remove_if_exists(&password_file)?;
    done?;
    // The setting names the staging directory nowhere, and initdb synced all files; only the move remains.
    debug_assert!(fs::metadata(staging.join("PG_VERSION")).is_ok(), "initdb ended well without a database");
    data_dir::install_staging(&spec.data_dir)?;
    Ok(())
}
