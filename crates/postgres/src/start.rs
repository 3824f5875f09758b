//! Everything that must be on disk before a start, and the command line for it. Starting is the guard's.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::keeps_variable;
use crate::config_files::{Recovery, remove_standby_signal, write_config, write_standby_signal};
use crate::installation::Program;
use crate::parameters::{Parameters, Raised};
use crate::spec::text;
use crate::{ControlFile, FileError, ServerSpec};

/// What the server is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartAs {
    /// In production. Only for a member that holds the lease at this moment.
    Primary,
    /// In recovery, until it is promoted.
    Standby,
}

/// What the guard executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program's path; absolute unless it could not be found.
    pub program: PathBuf,
    /// All arguments, the program's name first. No secret is among them.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory.
    pub directory: PathBuf,
}

/// A start that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedStart {
    /// What the guard executes.
    pub command: CommandLine,
    /// Settings whose configured value waits for a later restart.
    pub raised: Vec<Raised>,
    /// Refused values, as sentences.
    pub warnings: Vec<String>,
}

/// Writes the files for a start and gives its command line.
///
/// For a standby `standby.signal` is durable before anything else; for a primary it is removed last: a crash in between
/// leaves a server that would start as a standby.
pub fn prepare_start(
    spec: &ServerSpec,
    start_as: StartAs,
    recovery: &Recovery,
    control: &ControlFile,
) -> Result<PreparedStart, FileError> {
    if start_as == StartAs::Standby {
        write_standby_signal(&spec.data_dir)?;
    }
    let written = write_config(spec, recovery)?;
    if start_as == StartAs::Primary {
        remove_standby_signal(&spec.data_dir)?;
    }
    let mut parameters = Parameters::of(spec);
    let raised = match start_as {
        StartAs::Primary => Vec::new(),
        StartAs::Standby => parameters.raise_for_standby(control),
    };
    let command = command_line(spec, &parameters);
    Ok(PreparedStart { command, raised, warnings: written.warnings })
}

fn command_line(spec: &ServerSpec, parameters: &Parameters) -> CommandLine {
    let program = spec.installation.absolute_path(Program::Postgres);
    let mut arguments = vec![
        program.clone().into_os_string(),
        "-D".into(),
        spec.data_dir.clone().into_os_string(),
        format!("--config-file={}", text(&spec.file("postgresql.conf"))).into(),
    ];
    arguments.extend(parameters.controlled.iter().map(|(name, value)| OsString::from(format!("--{name}={value}"))));
    let mut environment: Vec<_> = std::env::vars_os().filter(|(name, _)| keeps_variable(name)).collect();
    if let Some(stranger) = stranger_in_pid_file(&spec.data_dir) {
        environment.push(("PG_GRANDPARENT_PID".into(), stranger.to_string().into()));
    }
    CommandLine { program, arguments, environment, directory: spec.data_dir.clone() }
}

/// A process that has the pid of a postmaster long gone, as happens in containers. The server would take it for a
/// living postmaster; being told that it is its grandparent, it does not.
fn stranger_in_pid_file(data_dir: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (!name.starts_with("postgres") && !name.starts_with("postmaster")).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_another_program_has_now_is_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stranger_in_pid_file(dir.path()), None);
        let own = std::process::id();
        fs::write(dir.path().join("postmaster.pid"), format!("{own}\n{}\n", dir.path().display())).unwrap();
        assert_eq!(stranger_in_pid_file(dir.path()), Some(own));
    }
}
