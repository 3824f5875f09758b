//! The PostgreSQL programs on this host: where they are and which version they have.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{CommandError, Tool};

/// `postgres --version` reads no data; longer than this means a hung disk or network file system.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// The oldest and the newest major version whose control file and settings this crate knows.
pub const SUPPORTED_MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// A program of PostgreSQL that pgbaton runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// The server.
    Postgres,
    /// Makes a new database cluster.
    Initdb,
    /// Copies a running server.
    BaseBackup,
    /// Brings a diverged copy back to another server's history.
    Rewind,
}

impl Program {
    /// The name that PostgreSQL gives it; also its key in `postgresql.bin_name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Initdb => "initdb",
            Self::BaseBackup => "pg_basebackup",
            Self::Rewind => "pg_rewind",
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installation {
    /// `postgresql.bin_dir`; without it the programs are looked for in `PATH`.
    pub bin_dir: Option<PathBuf>,
    /// Programs that have another name here (`postgresql.bin_name`).
    pub names: BTreeMap<Program, String>,
}

/// The version of the server's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// 15 in 15.18.
    pub major: u32,
    /// 18 in 15.18; zero for betas and development versions.
    pub minor: u32,
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Why the installation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The server program does not answer.
    #[error("cannot find out the version of PostgreSQL")]
    Command(#[from] CommandError),
    /// A program that will be needed is not there.
    #[error(transparent)]
    Missing(CommandError),
    /// The answer is not PostgreSQL's.
    #[error(
        "{} --version answered {answer:?}, which is not a version of PostgreSQL: set postgresql.bin_dir to the directory with \
         PostgreSQL's programs",
        program.display()
    )]
    NotPostgres {
        /// The program that was asked.
        program: PathBuf,
        /// Its first line.
        answer: String,
    },
    /// A version that this crate does not know.
    #[error(
        "{} is PostgreSQL {version}; versions {} to {} are supported: set postgresql.bin_dir to one of them",
        program.display(), SUPPORTED_MAJORS.start(), SUPPORTED_MAJORS.end()
    )]
    Unsupported {
        /// The program that was asked.
        program: PathBuf,
        /// What it is.
        version: ServerVersion,
    },
}

impl Installation {
    /// An installation in this directory, with PostgreSQL's own names.
    pub fn in_dir(bin_dir: impl Into<PathBuf>) -> Self {
        Self { bin_dir: Some(bin_dir.into()), names: BTreeMap::new() }
    }

    /// The path of a program; a bare name when `PATH` is to be searched.
    pub fn path(&self, program: Program) -> PathBuf {
        let name = self.names.get(&program).map_or(program.name(), String::as_str);
        self.bin_dir.as_deref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }

    /// Like [`Self::path`], but a bare name is replaced by the first match in `PATH`: who starts the server may
    /// have another `PATH` or search none.
    pub fn absolute_path(&self, program: Program) -> PathBuf {
        let path = self.path(program);
        if path.components().count() > 1 {
            return path;
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search).map(|dir| dir.join(&path)).find(|candidate| candidate.is_file()).unwrap_or(path)
    }

    /// Asks the server program for its version.
    pub async fn version(&self) -> Result<ServerVersion, InstallationError> {
        let program = self.path(Program::Postgres);
        let answer = Tool::new(&program).arg("--version").deadline(VERSION_DEADLINE).output().await?;
        let version = parse_version(&answer).ok_or_else(|| InstallationError::NotPostgres {
            program: program.clone(),
            answer: answer.lines().next().unwrap_or_default().to_owned(),
        })?;
        if SUPPORTED_MAJORS.contains(&version.major) {
            Ok(version)
        } else {
            Err(InstallationError::Unsupported { program, version })
        }
    }

    /// Fails with the first of these programs that is not there.
    pub fn require(&self, programs: &[Program]) -> Result<(), InstallationError> {
        let missing = programs.iter().map(|program| self.absolute_path(*program)).find(|path| !path.is_file());
        missing.map_or(Ok(()), |program| Err(InstallationError::Missing(CommandError::Missing { program })))
    }

    /// The directory to name when a program is missing.
    pub(crate) fn described(program: &Path) -> String {
        if program.components().count() > 1 {
            format!("{} does not exist", program.display())
        } else {
            format!("{} is not in PATH", program.display())
        }
    }
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` and `postgres (PostgreSQL) 18beta1`.
fn parse_version(answer: &str) -> Option<ServerVersion> {
    let (_, rest) = answer.split_once("(PostgreSQL)")?;
    let text = rest.split_whitespace().next()?;
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(text);
    let minor = text[major.len()..].strip_prefix('.').map(digits).unwrap_or_default();
    Some(ServerVersion { major: major.parse().ok()?, minor: minor.parse().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::in_dir(dir.path());
        std::fs::write(dir.path().join("postgres"), "").unwrap();
        installation.require(&[Program::Postgres]).unwrap();
        let error = installation.require(&[Program::Postgres, Program::Rewind]).unwrap_err().to_string();
        let rewind = dir.path().join("pg_rewind");
        let wanted = "does not exist: set postgresql.bin_dir to the directory with PostgreSQL's programs";
        assert_eq!(error, format!("{} {wanted}", rewind.display()));
    }

    #[test]
    fn versions_are_read_as_packagers_write_them() {
        let read = |text: &str| parse_version(text).map(|version| (version.major, version.minor));
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some((15, 18)));
        assert_eq!(read("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(read("postgres (PostgreSQL) 19devel"), Some((19, 0)));
        assert_eq!(read("postgres (EnterpriseDB) 15"), None);
        assert_eq!(read("bash 5"), None);
    }
}
