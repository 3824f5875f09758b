//! One guarded host: a real server below real guards, with an agent that does what the test says.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use pgbaton_sys::child::{ChildSetup, Credentials};
use pgbaton_sys::clock::boottime;
use pgbaton_sys::pidfd::PidFd;
use pgbaton_sys::proctree::with_working_directory;
use pgbaton_sys::{Pid, Signal};
use postgres::{Client, NoTls};

/// The guard and its scripted agent.
const PROGRAM: &str = env!("CARGO_BIN_EXE_guard-test-agent");

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// K as stated for a guard without real-time scheduling, the larger of the two; nanoseconds.
pub(crate) const K: u64 = 1_000_000_000;

pub(crate) const SECOND: u64 = 1_000_000_000;

/// Longest wait for anything, nanoseconds: far more than it takes on a busy machine.
const PATIENCE: u64 = 40 * SECOND;

/// A running guard and where it lives.
pub(crate) struct Host {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) outer: Child,
    /// The inner guard that was last seen, held, so that a failed test can thaw it.
    inner: RefCell<Option<PidFd>>,
}

/// The processes of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pids {
    pub(crate) agent: i32,
    pub(crate) outer: i32,
    pub(crate) inner: i32,
    pub(crate) postmaster: i32,
}

/// Polls `seen` until `wanted` likes it; fails saying what was awaited and what was there.
pub(crate) fn await_that<T: std::fmt::Debug>(
    what: &str,
    mut seen: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let limit = boottime() + PATIENCE;
    loop {
        let now = seen();
        if wanted(&now) {
            return now;
        }
        assert!(boottime() < limit, "awaited {what}; still {now:?}");
        // waits: a short pause between two looks; the state itself gives no event
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn send(pid: i32, signal: Signal) {
    PidFd::open(Pid::from_raw(pid).unwrap()).unwrap().send(signal).unwrap();
}

/// Error number for "no such process" on every Linux.
const ESRCH: i32 = 3;

/// Like [`send`], to a process that may have ended since it was seen.
pub(crate) fn send_if_there(pid: Pid, signal: Signal) {
    if let Err(error) = PidFd::open(pid).and_then(|held| held.send(signal)) {
        assert_eq!(error.raw_os_error(), Some(ESRCH), "{error}");
    }
}

fn alive(pid: i32) -> bool {
    let stat = pgbaton_sys::proctree::stat(Pid::from_raw(pid).unwrap()).unwrap();
    stat.is_some_and(|stat| stat.state != b'Z')
}

pub(crate) fn await_end(what: &str, pid: i32) {
    await_that(&format!("the end of {what}"), || alive(pid), |alive| !alive);
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn command(program: &Path, cgroup_procs: Option<OwnedFd>) -> Command {
    let mut command = Command::new(program);
    let credentials = is_root().then(|| Credentials::of_user("postgres").unwrap().expect("user postgres"));
    // Should the test die, so does what it started: the inner guard sees to the rest.
    let parent_death_signal = Some(Signal::KILL);
    ChildSetup { credentials, parent_death_signal, cgroup_procs, stdin_null: true, ..ChildSetup::default() }
        .apply(&mut command);
    command
}

impl Host {
    /// A guard with an agent, without a server yet; `files` are made in its directory before.
    pub(crate) fn begin_with(files: &[(&str, &str)]) -> Self {
        Self::prepare(files, None)
    }

    /// A guard that has a cgroup delegated to it: it runs in the one whose `cgroup.procs` this is.
    pub(crate) fn begin_in_cgroup(cgroup_procs: OwnedFd) -> Self {
        Self::prepare(&[], Some(cgroup_procs))
    }

    /// A guard with an agent, and an initialised data directory.
    pub(crate) fn begin() -> Self {
        Self::begin_with(&[])
    }

    /// Puts another file in the place of the executable, as a package manager does it.
    pub(crate) fn upgrade(&self) {
        let next = self.directory.path().join("next");
        std::fs::copy(PROGRAM, &next).unwrap();
        std::fs::rename(next, self.directory.path().join("program")).unwrap();
    }

    fn prepare(files: &[(&str, &str)], cgroup_procs: Option<OwnedFd>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        if is_root() {
            let user = Credentials::of_user("postgres").unwrap().expect("user postgres");
            std::os::unix::fs::chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        if !files.iter().any(|(name, _)| *name == "exit") {
            init_server(directory.path());
        }
        // A copy of its own can be exchanged, and reached by a user to whom root's home is closed.
        let program = directory.path().join("program");
        std::fs::copy(PROGRAM, &program).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let outer = command(&program, cgroup_procs)
            .arg("become")
            .arg(directory.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { directory, outer, inner: RefCell::new(None) }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.path().join("log")).unwrap()).into_owned()
    }

    /// Tells the agent something; its answer, or its error.
    pub(crate) fn tell(&self, line: &str) -> Result<String, String> {
        let path = self.directory.path().join("agent.sock");
        let mut stream = UnixStream::connect(path).map_err(|error| format!("no agent: {error}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).map_err(|error| format!("no agent: {error}"))?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).map_err(|error| format!("no agent: {error}"))?;
        let answer = answer.trim_end();
        match answer.split_once(' ').unwrap_or((answer, "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            ("error", rest) => Err(rest.to_owned()),
            _ => Err("no agent: closed".to_owned()),
        }
    }

    pub(crate) fn must(&self, line: &str) -> String {
        self.tell(line).unwrap_or_else(|error| panic!("{line}: {error}\n{}", self.log()))
    }

    /// The processes, as soon as an agent answers.
    pub(crate) fn pids(&self) -> Pids {
        let numbers = await_that(
            "an agent's answer",
            || Ok::<_, String>(format!("{} {}", self.tell("pid")?, self.tell("pids")?)),
            Result::is_ok,
        )
        .unwrap();
        let numbers: Vec<i32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        *self.inner.borrow_mut() = PidFd::open(Pid::from_raw(numbers[2]).unwrap()).ok();
        Pids { agent: numbers[0], outer: numbers[1], inner: numbers[2], postmaster: numbers[3] }
    }

    /// The processes, once the agent is another than `before`.
    pub(crate) fn next_pids(&self, before: Pids) -> Pids {
        await_that("another agent", || self.pids(), |pids| pids.agent != before.agent)
    }

    /// Starts a primary under a lease of `epoch` for `nanos` from now; returns the deadline once the server answers.
    pub(crate) fn start_primary(&self, epoch: u64, nanos: u64) -> u64 {
        self.pids();
        self.await_empty();
        // The start itself may take its time; the lease that counts comes after it.
        self.must(&format!("extend {epoch} {}", boottime() + 50 * SECOND));
        self.must("start primary");
        self.await_server();
        let deadline = boottime() + nanos;
        self.must(&format!("extend {} {deadline}", epoch + 1));
        deadline
    }

    /// Waits until the guard, too, knows that no process of a server is left.
    pub(crate) fn await_empty(&self) {
        // A guard that is busy with killing may answer too late for its agent: then it is asked again.
        await_that(
            "no tree",
            || self.tell("status"),
            |status| status.as_ref().is_ok_and(|status| status.contains("tree_alive: false")),
        )
        .unwrap();
    }

    pub(crate) fn await_server(&self) {
        await_that(
            "connections being accepted",
            || self.connect().map(drop).map_err(|error| error.to_string()),
            Result::is_ok,
        )
        .unwrap();
    }

    pub(crate) fn connect(&self) -> Result<Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(self.directory.path()).user("postgres").dbname("postgres");
        config.connect_timeout(Duration::from_secs(10)).connect(NoTls)
    }

    /// Waits until no process of the server is left, whoever its parent is.
    pub(crate) fn await_no_server(&self) {
        await_that("no process in the data directory", || with_working_directory(&self.data()).unwrap(), Vec::is_empty);
    }

    /// Starts the server again under a new lease and reads one number.
    pub(crate) fn read_after_restart(&self, epoch: u64, query: &str) -> i64 {
        self.start_primary(epoch, 50 * SECOND);
        self.connect().unwrap().query_one(query, &[]).unwrap().get(0)
    }

    /// Ends the guard in an orderly way; its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.outer.id()).unwrap();
        send(pid, Signal::TERM);
        self.exit_code()
    }

    /// The guard's exit code, once it has ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let ended = await_that("the guard's end", || self.outer.try_wait().unwrap(), Option::is_some);
        ended.unwrap().code()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed leaves a running guard: killing the outer one makes the inner one kill the rest.
        if matches!(self.outer.try_wait(), Ok(None)) {
            drop(self.outer.kill());
            drop(self.outer.wait());
        }
        if let Some(inner) = self.inner.get_mut() {
            // A frozen one could not see that the outer one is dead. Usually both are gone.
            drop(inner.send(Signal::CONT));
        }
        let limit = boottime() + PATIENCE;
        while self.data().exists()
            && with_working_directory(&self.data()).is_ok_and(|left| !left.is_empty())
            && boottime() < limit
        {
            // waits: a short pause between two looks; the state itself gives no event
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn init_server(directory: &Path) {
    let data = directory.join("data");
    let done = command(&Path::new(BINARIES).join("initdb"), None)
        .args(["--auth=trust", "--no-sync", "--username=postgres", "--pgdata"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let settings = format!(
        "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 300\n\
         shared_buffers = 32MB\nmax_wal_size = 4GB\n",
        directory.display()
    );
    let mut file = File::options().append(true).open(data.join("postgresql.conf")).unwrap();
    file.write_all(settings.as_bytes()).unwrap();
}
