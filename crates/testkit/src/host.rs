//! A host: one process tree that can be killed as a whole, as a power cut would.
//!
//! The tree hangs below a small process that adopts every orphan (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so that neither
//! a daemon nor a backend whose postmaster died gets away to the machine's own init. It ends, and its tree with it,
//! when its owner closes the pipe or dies. The small process is this program itself, started again with a hidden
//! argument: see [`run_if_asked`].

mod server;
mod tree;

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::process::Launch;

pub use server::run_if_asked;

/// The hidden argument that makes a program a host.
const ARGUMENT: &str = "--pgbaton-testkit-host";

/// Why a host could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The small process cannot be started or talked to.
    #[error("host {name} cannot be reached")]
    Gone {
        /// The host.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It answered with something that is no answer: the program does not call [`run_if_asked`].
    #[error("host {name} gave no sensible answer: {answer:?}")]
    Answer {
        /// The host.
        name: String,
        /// What it wrote.
        answer: String,
    },
    /// It could not do it.
    #[error("host {name}: {reason}")]
    Refused {
        /// The host.
        name: String,
        /// Its words.
        reason: String,
    },
}

/// The program that becomes a host.
#[derive(Debug, Clone)]
pub struct HostProgram(Vec<String>);

impl HostProgram {
    /// This very program, whose `main` calls [`run_if_asked`] first.
    pub fn own() -> io::Result<Self> {
        Ok(Self::at(std::env::current_exe()?))
    }

    /// Another program, whose `main` does so.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(vec![path.into().to_string_lossy().into_owned(), ARGUMENT.to_owned()])
    }

    /// The same inside a network namespace. `nsenter` and not `ip netns exec`, which would also mount another `/sys`
    /// and so hide the control groups.
    #[must_use]
    pub fn inside(&self, namespace: &str) -> Self {
        let mut words = vec!["nsenter".to_owned(), format!("--net=/run/netns/{namespace}"), "--".to_owned()];
        words.extend(self.0.iter().cloned());
        Self(words)
    }
}

/// What a host can be asked. One line of JSON each; one line answers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Request {
    Start(Box<Launch>),
    Signal { pid: i32, signal: i32 },
    KillAll,
    Ended { pid: i32 },
    Processes,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Reply {
    Started { pid: i32 },
    Done,
    Ended { status: Option<i32> },
    Processes(Vec<HostedProcess>),
    Failed(String),
}

/// A process of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedProcess {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// The start of its command line, its words separated by blanks.
    pub command: String,
}

/// A running host. Everything on it is killed when this is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    child: Child,
    // None once it is being closed: the host ends when it reads the end of its input.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Host {
    /// Starts an empty host.
    pub fn start(name: &str, program: &HostProgram) -> Result<Self, HostError> {
        let gone = |source| HostError::Gone { name: name.to_owned(), source };
        let mut command = Command::new(&program.0[0]);
        command.args(&program.0[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(gone)?;
        let pipe = || gone(io::Error::from(io::ErrorKind::BrokenPipe));
        let requests = Some(child.stdin.take().ok_or_else(pipe)?);
        let replies = BufReader::new(child.stdout.take().ok_or_else(pipe)?);
        Ok(Self { name: name.to_owned(), child, requests, replies })
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a process on it.
    pub fn launch(&mut self, launch: &Launch) -> Result<Pid, HostError> {
        match self.ask(&Request::Start(Box::new(launch.clone())))? {
            Reply::Started { pid } => Pid::from_raw(pid).ok_or_else(|| self.senseless(&format!("process {pid}"))),
            other => Err(self.refused(other)),
        }
    }

    /// Sends a signal to one of its processes.
    pub fn signal(&mut self, pid: Pid, signal: Signal) -> Result<(), HostError> {
        let request = Request::Signal { pid: pid.as_raw_nonzero().get(), signal: signal.as_raw() };
        self.done(&request)
    }

    /// Kills every process on it, at once: none of them sees another one die. The host stays and can start others.
    pub fn kill_all(&mut self) -> Result<(), HostError> {
        self.done(&Request::KillAll)
    }

    /// The exit code of a process started by [`Host::launch`], or 128 plus the number of the signal that killed it;
    /// none while it runs.
    pub fn ended(&mut self, pid: Pid) -> Result<Option<i32>, HostError> {
        match self.ask(&Request::Ended { pid: pid.as_raw_nonzero().get() })? {
            Reply::Ended { status } => Ok(status),
            other => Err(self.refused(other)),
        }
    }

    /// Everything that runs on it now, orphans included.
    pub fn processes(&mut self) -> Result<Vec<HostedProcess>, HostError> {
        match self.ask(&Request::Processes)? {
            Reply::Processes(processes) => Ok(processes),
            other => Err(self.refused(other)),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), HostError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(self.refused(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, HostError> {
        let line = serde_json::to_string(request).map_err(io::Error::from);
        let mut answer = String::new();
        let asked = line.and_then(|line| {
            let pipe = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            pipe.write_all(format!("{line}\n").as_bytes())?;
            self.replies.read_line(&mut answer)
        });
        match asked {
            Err(source) => Err(HostError::Gone { name: self.name.clone(), source }),
            Ok(_) => serde_json::from_str(&answer).map_err(|_| self.senseless(&answer)),
        }
    }

    fn senseless(&self, answer: &str) -> HostError {
        HostError::Answer { name: self.name.clone(), answer: answer.to_owned() }
    }

    fn refused(&self, reply: Reply) -> HostError {
        match reply {
            Reply::Failed(reason) => HostError::Refused { name: self.name.clone(), reason },
            other => self.senseless(&format!("{other:?}")),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Closing its input tells the host to kill what it has and to end; it does so within milliseconds.
        drop(self.requests.take());
        // Losing it is right: the only error is that it has already been reaped.
        let _ = self.child.wait();
    }
}
