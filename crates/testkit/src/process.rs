//! Processes of a test: started as the right user, with their output in a file, and gone with the test.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pgbaton_sys::child::{ChildSetup, Credentials};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use serde::{Deserialize, Serialize};

use crate::user::OsUser;
use crate::wait::{self, TimedOut};

/// Why a process could not be started or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its output cannot go where it should.
    #[error("cannot open the log file {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be signalled: most often, it is gone.
    #[error("cannot signal process {pid}")]
    Signal {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

/// What to start, and how. Also sent to a [`crate::Host`], in JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to the environment.
    pub environment: BTreeMap<String, String>,
    /// The user that it runs as, if not the one who starts it: number, group's number.
    pub user: Option<(u32, u32)>,
    /// Where it works.
    pub directory: PathBuf,
    /// Where its standard output and standard error go; appended to.
    pub log: PathBuf,
}

impl Launch {
    /// A program that writes its output to `log` and works in `/`.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        let (program, log) = (program.into(), log.into());
        Self { program, arguments: Vec::new(), environment: BTreeMap::new(), user: None, directory: "/".into(), log }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Makes it run as `user`, with that user's home.
    #[must_use]
    pub fn user(mut self, user: &OsUser) -> Self {
        if crate::user::is_root() {
            self.user = Some((user.uid, user.gid));
        }
        let home = user.home.to_string_lossy().into_owned();
        self.env("HOME", home).env("USER", &user.name).env("LOGNAME", &user.name)
    }

    /// Starts it as a direct child in a session of its own, as a service manager does. The kernel shares the processors
    /// between sessions (sched(7), autogroups), so that otherwise what is measured has to share with what measures it. The
    /// caller must reap it. With `parent_death_signal`, the kernel kills it when the **thread** that started it ends.
    pub(crate) fn spawn(&self, parent_death_signal: Option<Signal>) -> Result<Child, ProcessError> {
        let log = open_log(&self.log)?;
        let errors = log.try_clone().map_err(|source| ProcessError::Log { path: self.log.clone(), source })?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(&self.environment).current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        // Here and not by the standard library, which would change the user after this and so clear the death signal.
        let credentials = self.user.map(|(uid, gid)| Credentials { uid, gid, groups: Vec::new() });
        let new_session = true;
        ChildSetup { new_session, credentials, parent_death_signal, ..ChildSetup::default() }.apply(&mut command);
        command.spawn().map_err(|source| ProcessError::Start { program: self.program.clone(), source })
    }
}

fn open_log(path: &Path) -> Result<File, ProcessError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| ProcessError::Log { path: path.to_owned(), source })
}

/// One process with its session's first process group, both killed when this is dropped. The process itself also dies with the thread
/// that started it, however that ends, so a test that is killed leaves it not behind. What leaves the group, such as
/// PostgreSQL's backends, needs a [`crate::Host`].
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it.
    pub fn start(launch: &Launch) -> Result<Self, ProcessError> {
        Ok(Self { child: launch.spawn(Some(Signal::KILL))?, log: launch.log.clone() })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal. Of [`Signal::STOP`] it returns when all threads stand still: until then they may answer.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = self.pid();
        signal_process(pid, signal)?;
        if signal == Signal::STOP {
            // One that ends instead is not waited for, and its end is left to be found.
            let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(pid), options)
                .map_err(|source| ProcessError::Signal { pid: pid.as_raw_nonzero().get(), source: source.into() })?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, TimedOut> {
        let awaited = format!("the end of process {}", self.child.id());
        wait::until(&awaited, limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it is running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Losing these is right: a group that is gone is what is wanted.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Sends a signal to any process.
pub fn signal_process(pid: Pid, signal: Signal) -> Result<(), ProcessError> {
    kill_process(pid, signal)
        .map_err(|source| ProcessError::Signal { pid: pid.as_raw_nonzero().get(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirs::TempDir;

    #[test]
    fn a_process_writes_to_its_log_and_ends_with_its_owner() {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("process", &user).unwrap();
        let log = directory.path().join("log");
        let script = "echo started as $(id -u); exec sleep 600";
        let launch = Launch::new("/bin/sh", &log).args(["-c", script]).user(&user);
        let process = Process::start(&launch).unwrap();
        let started = format!("started as {}\n", user.uid);
        wait::until("the first line", Duration::from_secs(10), || match process.output() {
            output if output == started => Ok(()),
            output => Err(output),
        })
        .unwrap();
        let pid = process.pid();
        drop(process);
        assert!(signal_process(pid, Signal::CONT).is_err(), "the process is gone and reaped");
    }

    #[test]
    fn a_process_does_not_outlive_the_thread_that_started_it() {
        let user = OsUser::for_servers().unwrap();
        let launch = Launch::new("/bin/sleep", "/dev/null").args(["600"]).user(&user);
        let mut process = std::thread::spawn(move || Process::start(&launch).unwrap()).join().unwrap();
        let status = process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Process::start(&Launch::new("/no/such/program", "/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /no/such/program");
    }
}
