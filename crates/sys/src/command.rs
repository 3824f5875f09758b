//! Programs of the user's own that are run with a time limit: what they have started goes with them when they take too long.

use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::clock::boottime;

/// How often it is looked whether a command has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How long is waited for what a command has said that has ended already: it is in the pipe.
const WORDS_WITHIN: Duration = Duration::from_millis(500);
/// How much of what a command says is kept.
const WORDS_MAX: u64 = 4096;

/// A command with a time limit: a program with its arguments, without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The longest time that it may take; then it is killed.
    pub within: Duration,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no program.
    #[error("the command is empty")]
    Empty,
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} {how}: {words}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        how: String,
        /// What it said last.
        words: String,
    },
    /// It took too long and was killed.
    #[error("{program} was killed after {within_s} s")]
    Slow {
        /// The program.
        program: String,
        /// The limit in seconds.
        within_s: u64,
    },
}

impl Run {
    /// The same with `{file}` in each argument replaced by `file`.
    #[must_use]
    pub fn with_file(&self, file: &str) -> Self {
        let command = self.command.iter().map(|word| word.replace("{file}", file)).collect();
        Self { command, within: self.within }
    }

    /// Runs it, with these variables added to the environment.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes too long.
    pub fn run(&self, environment: &[(&str, String)]) -> Result<(), CommandError> {
        let (program, words) = self.command.split_first().ok_or(CommandError::Empty)?;
        let program = program.clone();
        let mut command = Command::new(&program);
        for (name, value) in environment {
            command.env(name, value);
        }
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Of its own, so that what it has started goes with it when it takes too long.
        command.process_group(0);
        let start = |source| CommandError::Start { program: program.clone(), source };
        let (listen, said) = listener().map_err(start)?;
        let mut child = command.spawn().map_err(start)?;
        if let Some(stderr) = child.stderr.take() {
            // It fails only when that thread has ended, which it does not before it has heard.
            drop(listen.send(stderr));
        }
        let ended = self.wait(&mut child).map_err(start)?;
        let Some(status) = ended else {
            let within_s = self.within.as_secs();
            return Err(CommandError::Slow { program, within_s });
        };
        if status.success() {
            return Ok(());
        }
        // A daemon that it has started may keep the other end open for ever.
        let words = said.recv_timeout(WORDS_WITHIN).unwrap_or_default();
        Err(CommandError::Failed { program, how: how(status), words })
    }

    /// None: it was killed.
    fn wait(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let begun = boottime();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Duration::from_nanos(boottime().saturating_sub(begun)) >= self.within {
                rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL)?;
                child.wait()?;
                return Ok(None);
            }
            // waits: for the end of the command, with a limit
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// A thread that hears what a command says, and gives the begin of it. It is there before the command is.
fn listener() -> io::Result<(mpsc::Sender<ChildStderr>, mpsc::Receiver<String>)> {
    let (listen, commands) = mpsc::channel::<ChildStderr>();
    let (say, said) = mpsc::channel();
    let hear = move || {
        let Ok(mut stderr) = commands.recv() else { return };
        // Nobody may want to hear it any more.
        drop(say.send(words_of(&mut stderr)));
        // Who writes into a pipe that nobody reads dies. An error is the end of it as well.
        drop(io::copy(&mut stderr, &mut io::sink()));
    };
    std::thread::Builder::new().name("command".to_owned()).spawn(hear)?;
    Ok((listen, said))
}

/// What it said, as one line.
fn words_of(from: &mut impl io::Read) -> String {
    let mut bytes = Vec::new();
    if from.take(WORDS_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Result<(), CommandError> {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Run { command, within: Duration::from_secs(20) }.run(&[])
    }

    #[test]
    fn who_says_more_than_is_kept_is_heard_to_the_end() {
        let much = "i=0; while [ $i -lt 20000 ]; do echo 'words and words' >&2; i=$((i + 1)); done";
        run(much).unwrap();
        let error = run(&format!("{much}; exit 3")).unwrap_err().to_string();
        assert!(error.starts_with("sh ended with 3: words and words"), "{error}");
        assert!(error.len() < 5000, "{} bytes", error.len());
    }

    #[test]
    fn what_is_left_running_holds_nobody_up() {
        let error = run("echo why >&2; sleep 2 & exit 1").unwrap_err();
        assert!(matches!(error, CommandError::Failed { .. }), "{error}");
    }
}
