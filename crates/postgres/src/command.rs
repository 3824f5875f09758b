//! Running PostgreSQL's own tools: without secrets in arguments, with a deadline, and never left behind.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pgbaton_sys::child::ChildSetup;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::Installation;

/// Lines of a failed tool's output that its error shows.
const LINES_SHOWN: usize = 20;
/// Lines waiting between a tool and us: a full queue only makes the tool wait.
const LINES_QUEUED: usize = 64;
/// Longest output that [`Tool::output`] keeps, in bytes.
const OUTPUT_MAX: usize = 64 * 1024;

/// Environment variables that no tool and no server gets: they are ours or our service manager's, or would change what
/// PostgreSQL does.
const REMOVED: [&str; 14] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "MAINPID",
    "PGDATA",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGOPTIONS",
    "PGSERVICE",
    "PGAPPNAME",
    "PGSSLMODE",
];

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not there.
    #[error("{}: set postgresql.bin_dir to the directory with PostgreSQL's programs", Installation::described(program))]
    Missing {
        /// The program.
        program: PathBuf,
    },
    /// It could not be started, or its output not be read.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} failed ({status}): {output}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        output: String,
    },
    /// It made no progress and was killed.
    #[error("{} was killed: no progress for {waited:?}; it last wrote: {output}", program.display())]
    Stalled {
        /// The program.
        program: PathBuf,
        /// How long nothing came from it.
        waited: Duration,
        /// The last lines that it wrote.
        output: String,
    },
}

/// Whether an environment variable is handed on to PostgreSQL.
pub(crate) fn keeps_variable(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    !(text.starts_with("PATRONI_") || text.starts_with("PGBATON_") || REMOVED.contains(&text.as_ref()))
}

/// One run of a tool.
pub(crate) struct Tool {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    deadline: Duration,
}

impl Tool {
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            deadline: Duration::from_secs(60),
        }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<I: IntoIterator<Item = String>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(OsString::from));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Where it runs; the agent's own directory without this.
    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Messages that are read by us come in one language. Not for initdb, which takes the new cluster's locale from
    /// the environment.
    pub(crate) fn in_english(self) -> Self {
        self.env("LC_ALL", "C").env("LANGUAGE", "C")
    }

    /// How long it may be silent. For a tool that says nothing this is how long it may run.
    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it and gives what it wrote.
    pub(crate) async fn output(self) -> Result<String, CommandError> {
        let mut output = String::new();
        self.run(|line| {
            if output.len() < OUTPUT_MAX {
                output.push_str(line);
                output.push('\n');
            }
        })
        .await?;
        Ok(output)
    }

    /// Runs it, giving each line of its output and of its errors. Dropping the future kills the tool and its children.
    pub(crate) async fn run(self, mut on_line: impl FnMut(&str)) -> Result<(), CommandError> {
        let mut child = Group(self.spawn()?, false);
        let (sender, mut lines) = mpsc::channel(LINES_QUEUED);
        for stream in child.streams() {
            // The task ends with the stream, that is with the tool; a failing read ends it as well, and the exit
            // status tells the rest.
            tokio::spawn(forward_lines(stream, sender.clone()));
        }
        drop(sender);
        let mut last = VecDeque::new();
        loop {
            match timeout_at(Instant::now() + self.deadline, lines.recv()).await {
                Ok(Some(line)) => {
                    on_line(&line);
                    last.push_back(line);
                    if last.len() > LINES_SHOWN {
                        last.pop_front();
                    }
                }
                Ok(None) => break,
                Err(_) => return Err(self.stalled(&last)),
            }
        }
        let status = match timeout_at(Instant::now() + self.deadline, child.0.wait()).await {
            Ok(status) => status.map_err(|source| CommandError::Run { program: self.program.clone(), source })?,
            Err(_) => return Err(self.stalled(&last)),
        };
        child.1 = true;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::Failed { output: joined(&last), program: self.program, status })
    }

    fn stalled(&self, last: &VecDeque<String>) -> CommandError {
        CommandError::Stalled { program: self.program.clone(), waited: self.deadline, output: joined(last) }
    }

    fn spawn(&self) -> Result<Child, CommandError> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| keeps_variable(name)));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A copy that nobody watches must not go on writing into the directory: it ends with the thread that runs it.
        ChildSetup { parent_death_signal: Some(Signal::KILL), ..ChildSetup::default() }.apply(&mut command);
        let mut command = Command::from(command);
        // pg_basebackup has a child of its own, so that a kill must reach a group.
        command.process_group(0).kill_on_drop(true);
        command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CommandError::Missing { program: self.program.clone() },
            _ => CommandError::Run { program: self.program.clone(), source },
        })
    }
}

fn joined(lines: &VecDeque<String>) -> String {
    lines.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}

async fn forward_lines(stream: Box<dyn AsyncRead + Send + Unpin>, sender: mpsc::Sender<String>) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        if sender.send(line).await.is_err() {
            return;
        }
    }
}

/// A child that leads a process group, and whether it was waited for. Killed as a group when dropped before.
struct Group(Child, bool);

impl Group {
    fn streams(&mut self) -> Vec<Box<dyn AsyncRead + Send + Unpin>> {
        let mut streams: Vec<Box<dyn AsyncRead + Send + Unpin>> = Vec::new();
        streams.extend(self.0.stdout.take().map(|stream| Box::new(stream) as Box<_>));
        streams.extend(self.0.stderr.take().map(|stream| Box::new(stream) as Box<_>));
        streams
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let (false, Some(group)) = (self.1, group) {
            // The group may be gone by itself, which is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_says_what_to_set() {
        let error = Tool::new(Path::new("/nowhere/initdb")).output().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere/initdb does not exist: set postgresql.bin_dir to the directory with PostgreSQL's programs"
        );
    }

    #[tokio::test]
    async fn a_failure_shows_the_last_lines() {
        let error =
            Tool::new(Path::new("sh")).args(["-c".into(), "echo one; echo two >&2; exit 3".into()]).output().await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.contains("one") && text.contains("two"), "{text}");
    }

    #[tokio::test]
    async fn a_silent_tool_is_killed_with_its_children() {
        let tool = Tool::new(Path::new("sh")).args(["-c".into(), "echo $$; sleep 600 & wait".into()]);
        let mut group = 0;
        let result = tool.deadline(Duration::from_millis(200)).run(|line| group = line.trim().parse().unwrap()).await;
        assert!(matches!(result, Err(CommandError::Stalled { .. })), "{result:?}");
        // Its members are killed or dead by now; the last of them is reaped by whoever is its parent.
        let members = || {
            std::fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter_map(|entry| {
                    let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
                    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect();
                    (fields[2] == group.to_string() && fields[0] != "Z").then_some(stat)
                })
                .collect::<Vec<_>>()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !members().is_empty() {
            assert!(Instant::now() < deadline, "still running: {:?}", members());
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn the_environment_of_the_agent_stays_with_the_agent() {
        for name in ["PATRONI_SUPERUSER_PASSWORD", "PGBATON_GUARD_FD", "NOTIFY_SOCKET", "PGPASSWORD"] {
            assert!(!keeps_variable(OsStr::new(name)), "{name}");
        }
        assert!(keeps_variable(OsStr::new("AWS_REGION")));
    }
}
