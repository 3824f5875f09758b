//! A place for members with mistakes: a host whose processes all go with it, a directory, ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgbaton_testkit::{Host, HostProgram, Launch, OsUser, PortLease, TempDir, install, postgres, wait};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// How long anything may take, also on a machine that builds at the same time.
pub(crate) const LIMIT: Duration = Duration::from_secs(50);

/// The place.
pub(crate) struct Ground {
    pub(crate) host: Host,
    program: PathBuf,
    ports: Vec<PortLease>,
    pub(crate) user: OsUser,
    directory: TempDir,
}

/// A member that was started.
pub(crate) struct Started {
    pid: Pid,
    log: PathBuf,
    /// Bytes of the log that an earlier start wrote.
    before: usize,
}

/// What a file is, as far as it shows that somebody changed it: the kernel sets the time of change by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileState {
    inode: u64,
    mode: u32,
    bytes: u64,
    changed: (i64, i64),
}

/// What there is below a directory.
pub(crate) type Files = BTreeMap<PathBuf, FileState>;

impl Ground {
    pub(crate) fn new() -> Self {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("bad", &user).unwrap();
        let program = directory.path().join("pgbaton");
        install(Path::new(env!("CARGO_BIN_EXE_pgbaton")), &program).unwrap();
        let host = Host::start("bad", &HostProgram::at(&program)).unwrap();
        Self { host, program, ports: PortLease::hold_many(6).unwrap(), user, directory }
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.ports[index].port()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory that the members' user may read and not write.
    pub(crate) fn locked(&self) -> PathBuf {
        let path = self.path("locked");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
        path
    }

    /// A configuration without a mistake: member `name` with its own data and store, ports from `first` on.
    pub(crate) fn yaml(&self, name: &str, first: usize) -> String {
        let (directory, bin_dir) = (self.directory.path().display(), postgres::bin_dir().unwrap());
        let (server, rest) = (self.port(first), self.port(first + 1));
        format!(
            "scope: bad
name: {name}
restapi:
  listen: 127.0.0.1:{rest}
raft:
  data_dir: {directory}/{name}-store
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 1.5
postgresql:
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication replicator 127.0.0.1/32 scram-sha-256
  listen: 127.0.0.1:{server}
  data_dir: {directory}/{name}-data
  bin_dir: {}
  pgpass: {directory}/{name}-pgpass
  use_pg_rewind: true
  authentication:
    superuser: {{username: postgres, password: test}}
    replication: {{username: replicator, password: test}}
  parameters:
    unix_socket_directories: {directory}
",
            bin_dir.display()
        )
    }

    /// Writes a member's configuration.
    pub(crate) fn configure(&self, name: &str, yaml: &str) -> PathBuf {
        self.directory.file(&format!("{name}.yml"), yaml, &self.user).unwrap()
    }

    /// Starts a member with this configuration.
    pub(crate) fn start(&mut self, name: &str, yaml: &str) -> Started {
        let config = self.configure(name, yaml);
        let log = self.path(&format!("{name}.log"));
        let before = fs::read(&log).unwrap_or_default().len();
        let launch = Launch::new(&self.program, &log).args(["agent", config.to_str().unwrap()]).user(&self.user);
        Started { pid: self.host.launch(&launch).unwrap(), log, before }
    }

    /// Waits for a member's end; its exit code and all its words.
    fn ended(&mut self, what: &str, member: &Started) -> (i32, String) {
        let code = wait::until(&format!("the member's end ({what})"), LIMIT, || match self.host.ended(member.pid) {
            Ok(Some(code)) => Ok(code),
            other => Err(format!("{other:?}; {}", member.words())),
        });
        (code.unwrap(), member.words())
    }

    /// Starts a member that must end with 1 and say all this.
    pub(crate) fn refused(&mut self, what: &str, name: &str, yaml: &str, said: &[&str]) {
        let member = self.start(name, yaml);
        let (code, words) = self.ended(what, &member);
        assert_eq!(code, 1, "{what}: {words}");
        for said in said {
            assert!(words.contains(said), "{what}: {said:?} is not in: {words}");
        }
    }

    pub(crate) fn stop(&mut self, member: &Started) {
        self.host.signal(member.pid, Signal::TERM).unwrap();
        let (code, words) = self.ended("an orderly one", member);
        assert_eq!(code, 0, "{words}");
    }

    /// Kills the only agent, and not its guard.
    pub(crate) fn kill_agent(&mut self) {
        let processes = self.host.processes().unwrap();
        let agent = processes.iter().find(|process| process.command.contains("--under-guard")).unwrap();
        self.host.signal(Pid::from_raw(agent.pid).unwrap(), Signal::KILL).unwrap();
    }

    /// Has a member read its configuration again.
    pub(crate) fn reload(&mut self, member: &Started) {
        self.host.signal(member.pid, Signal::HUP).unwrap();
    }

    /// It has not ended.
    pub(crate) fn assert_running(&mut self, member: &Started) {
        assert_eq!(self.host.ended(member.pid).unwrap(), None, "{}", member.words());
    }

    /// What the members answer that member whose ports begin at `first` is asked for.
    pub(crate) fn list(&self, first: usize) -> Value {
        let url = format!("http://127.0.0.1:{}", self.port(first + 1));
        let output = Command::new(&self.program)
            .args(["list", "--format", "json", "--url", &url])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until member `name`, whose ports begin at `first`, has that role and state.
    pub(crate) fn wait_for(&self, name: &str, first: usize, member: &Started, role: &str, state: &str) {
        wait::until(&format!("{name} as {role}, {state}"), LIMIT, || {
            let rows = self.list(first);
            let mut found = rows.as_array().into_iter().flatten().filter(|row| row["Member"] == name);
            let there = found.any(|row| row["Role"] == role && row["State"] == state);
            if there { Ok(()) } else { Err(format!("{rows}; {}", member.words())) }
        })
        .unwrap();
    }

    /// Waits until member `name` leads and runs.
    pub(crate) fn wait_leader(&self, name: &str, first: usize, member: &Started) {
        self.wait_for(name, first, member, "Leader", "running");
        // It holds the lease already while its server is still promoted.
        let recovering = "SELECT pg_is_in_recovery()";
        wait::until("the leader to take writes", LIMIT, || match self.sql(first, recovering) {
            Ok(answer) if answer == "f" => Ok(()),
            Ok(answer) | Err(answer) => Err(answer),
        })
        .unwrap();
    }

    /// Runs SQL on the server whose ports begin at `first`; what it gave, or its complaint.
    pub(crate) fn sql(&self, first: usize, statement: &str) -> Result<String, String> {
        let output = Command::new(postgres::bin_dir().unwrap().join("psql"))
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--username=postgres"])
            .arg(format!("--host={}", self.directory.path().display()))
            .arg(format!("--port={}", self.port(first)))
            .args(["--dbname=postgres", "--command", statement])
            .env("PGPASSWORD", "test")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// All that is below a directory of this place.
    pub(crate) fn files(&self, name: &str) -> Files {
        let mut found = BTreeMap::new();
        collect(&self.path(name), &mut found);
        found
    }

    /// Nothing below that directory was made, removed or changed since.
    pub(crate) fn assert_unchanged(&self, name: &str, before: &Files, what: &str) {
        let after = self.files(name);
        let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed: Vec<_> = paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty(), "{what}: {changed:?} changed");
    }
}

impl Started {
    /// All that it has said since this start.
    pub(crate) fn words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[self.before.min(log.len())..]).into_owned()
    }

    /// Waits until a member that goes on waiting has said all this.
    pub(crate) fn wait_for_words(&self, wanted: &[&str]) {
        wait::until(&format!("the words {wanted:?}"), LIMIT, || {
            let text = self.words();
            if wanted.iter().all(|wanted| text.contains(wanted)) { Ok(()) } else { Err(text) }
        })
        .unwrap();
    }
}

fn collect(path: &Path, found: &mut Files) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    let state = FileState { inode: metadata.ino(), mode: metadata.mode(), bytes: metadata.size(), changed };
    found.insert(path.to_owned(), state);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    }
}
