//! Bad input, as a table: what is wrong, what is said about it, with which exit code the member ends. The real binary, and where it
//! matters a real server. In every case nothing is lost: what was there before is there afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgbaton_testkit::user::is_root;
use pgbaton_testkit::{Host, HostProgram, Launch, OsUser, PortLease, TempDir, postgres, wait};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// How long anything may take, also on a machine that builds at the same time.
const LIMIT: Duration = Duration::from_secs(50);

/// A place for members: a host whose processes all go with it, a directory, ports.
struct Ground {
    host: Host,
    program: PathBuf,
    ports: Vec<PortLease>,
    user: OsUser,
    directory: TempDir,
}

/// A member that was started.
struct Started {
    pid: Pid,
    log: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("bad", &user).unwrap();
        // The build's own directory may be closed to the servers' user.
        let program = directory.path().join("pgbaton");
        fs::copy(env!("CARGO_BIN_EXE_pgbaton"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let host = Host::start("bad", &HostProgram::at(&program)).unwrap();
        Self { host, program, ports: PortLease::hold_many(6).unwrap(), user, directory }
    }

    fn port(&self, index: usize) -> u16 {
        self.ports[index].port()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A configuration without a mistake: member `name` with its own data and store, ports from `first` on.
    fn yaml(&self, name: &str, first: usize) -> String {
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
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 scram-sha-256
postgresql:
  listen: 127.0.0.1:{server}
  data_dir: {directory}/{name}-data
  bin_dir: {}
  pgpass: {directory}/{name}-pgpass
  authentication:
    superuser: {{username: postgres, password: test}}
    replication: {{username: replicator, password: test}}
  parameters:
    unix_socket_directories: {directory}
",
            bin_dir.display()
        )
    }

    /// Starts a member with this configuration.
    fn start(&mut self, name: &str, yaml: &str) -> Started {
        let config = self.directory.file(&format!("{name}.yml"), yaml, &self.user).unwrap();
        let log = self.path(&format!("{name}.log"));
        let launch = Launch::new(&self.program, &log).args(["agent", config.to_str().unwrap()]).user(&self.user);
        Started { pid: self.host.launch(&launch).unwrap(), log }
    }

    /// Waits for a member's end; its exit code and all its words.
    fn ended(&mut self, member: &Started) -> (i32, String) {
        let code = wait::until("the member's end", LIMIT, || match self.host.ended(member.pid) {
            Ok(Some(code)) => Ok(code),
            other => Err(format!("{other:?}; {}", words(&member.log))),
        });
        (code.unwrap(), words(&member.log))
    }

    fn stop(&mut self, member: &Started) {
        self.host.signal(member.pid, Signal::TERM).unwrap();
        let (code, words) = self.ended(member);
        assert_eq!(code, 0, "{words}");
    }

    /// Waits until the member whose ports begin at `first` leads and runs.
    fn wait_leader(&self, first: usize, member: &Started) {
        let url = format!("http://127.0.0.1:{}", self.port(first + 1));
        wait::until("a leader that runs", LIMIT, || {
            let output = Command::new(&self.program)
                .args(["list", "--format", "json", "--url", &url])
                .stdin(Stdio::null())
                .output();
            let rows: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default();
            let leads = rows[0]["Role"] == "Leader" && rows[0]["State"] == "running";
            if leads { Ok(()) } else { Err(format!("{rows}; {}", words(&member.log))) }
        })
        .unwrap();
    }
}

/// The identity of a database: the first field of its control file (PostgreSQL source, `ControlFileData`).
fn system_id(data_dir: &Path) -> Vec<u8> {
    fs::read(data_dir.join("global/pg_control")).unwrap()[..8].to_vec()
}

fn words(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

/// Waits until a member that goes on waiting has said all this.
fn wait_for_words(member: &Started, wanted: &[&str]) {
    wait::until(&format!("the words {wanted:?}"), LIMIT, || {
        let text = words(&member.log);
        if wanted.iter().all(|wanted| text.contains(wanted)) { Ok(()) } else { Err(text) }
    })
    .unwrap();
}

/// What is replaced in a right configuration, and what is said about it. `DIR` is the directory of the test.
const REFUSED: [(&str, &str, &str, &[&str]); 11] = [
    ("wrong YAML", "scope: bad", "scope: [bad", &["error: ", "wrong-yaml.yml:2:"]),
    (
        "wrong type",
        "ttl: 5",
        "ttl: soon",
        &["bootstrap.dcs.ttl: expected a number of seconds, 0 or more, found 'soon'", "wrong-type.yml:9:10"],
    ),
    ("wrong ttl", "ttl: 5", "ttl: 4", &["ttl must be at least 5 seconds, found 4", "wrong-ttl.yml:9:10"]),
    (
        "impossible timing",
        "retry_timeout: 1.5",
        "retry_timeout: 3",
        &["loop_wait + 2 * retry_timeout must not exceed ttl, but 1 + 2 * 3 > 5", "impossible-timing.yml:9:"],
    ),
    (
        "a promise that cannot be kept",
        "    loop_wait: 1\n",
        "    loop_wait: 1\n    synchronous_mode: true\n",
        &["synchronous_mode is set to 'true'", ".yml:11:"],
    ),
    ("another store", "raft:\n", "etcd3: {hosts: '127.0.0.1:2379'}\nraft:\n", &["etcd3", ".yml:5:"]),
    ("a missing key", "name: NAME\n", "", &["name is missing", "add a line such as 'name: pg-1'"]),
    (
        "no password beyond loopback",
        "raft:\n",
        "raft:\n  self_addr: 10.9.8.7:2380\n",
        &["raft.password is missing, and 10.9.8.7:2380 can be reached from other hosts", "add 'password: ...'"],
    ),
    ("a missing program", "bin_dir: BIN", "bin_dir: /nowhere/bin", &["/nowhere/bin", "postgresql.bin_dir"]),
    (
        "a directory that cannot be written",
        "data_dir: DIR/NAME-data",
        "data_dir: DIR/locked/data",
        &["DIR/locked", "correct its owner and mode"],
    ),
    (
        "a data directory that is a file",
        "data_dir: DIR/NAME-data",
        "data_dir: DIR/pgbaton",
        &["DIR/pgbaton is not a directory"],
    ),
];

#[test]
fn a_member_with_a_mistake_ends_with_1_and_says_what_to_do() {
    let mut ground = Ground::new();
    let locked = ground.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    assert!(!is_root() || ground.user.uid != 0, "root may write everywhere");
    let directory = ground.directory.path().display().to_string();
    let bin_dir = postgres::bin_dir().unwrap().display().to_string();
    for (what, from, to, said) in REFUSED {
        let name = what.replace(' ', "-").to_lowercase();
        let fill = |text: &str| text.replace("DIR", &directory).replace("BIN", &bin_dir).replace("NAME", &name);
        let right = ground.yaml(&name, 0);
        let wrong = right.replacen(&fill(from), &fill(to), 1);
        assert_ne!(right, wrong, "{what}");
        // One after the other: they have the same ports.
        let member = ground.start(&name, &wrong);
        let (code, words) = ground.ended(&member);
        assert_eq!(code, 1, "{what}: {words}");
        for said in said.iter().map(|said| fill(said)) {
            assert!(words.contains(&said), "{what}: {said:?} is not in: {words}");
        }
    }
    let left: Vec<_> = ground.host.processes().unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let mut ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let right = ground.yaml("port", 0);
    let (server, rest) =
        (format!("listen: 127.0.0.1:{}", ground.port(0)), format!("listen: 127.0.0.1:{}", ground.port(1)));
    let cases = [
        (server, format!("listen: {taken}"), "for PostgreSQL: stop what uses it, or change postgresql.listen"),
        (rest, format!("listen: {taken}"), "for the REST API: stop what uses it, or change restapi.listen"),
        ("raft:\n".to_owned(), format!("raft:\n  self_addr: {taken}\n"), "for the other members of the store"),
    ];
    for (from, to, said) in cases {
        let wrong = right.replacen(&from, &to, 1);
        assert_ne!(right, wrong, "{said}");
        let member = ground.start("port", &wrong);
        let (code, words) = ground.ended(&member);
        assert_eq!(code, 1, "{words}");
        assert!(words.contains(&format!("cannot listen on {taken} {said}")), "{said:?} is not in: {words}");
    }
}

#[test]
fn a_second_agent_and_another_clusters_data_are_refused() {
    let mut ground = Ground::new();
    let (yaml_a, yaml_b) = (ground.yaml("a", 0), ground.yaml("b", 2));
    let a = ground.start("a", &yaml_a);
    ground.wait_leader(0, &a);

    // The same data directory, everything else its own.
    let own_data = format!("data_dir: {}", ground.path("b-data").display());
    let same_data = format!("data_dir: {}", ground.path("a-data").display());
    let second = ground.start("second", &yaml_b.replace(&own_data, &same_data));
    let (code, said) = ground.ended(&second);
    assert_eq!(code, 1, "{said}");
    let wanted = format!("manages the data directory {}: stop it first", ground.path("a-data").display());
    assert!(said.contains("another agent (process ") && said.contains(&wanted), "{said}");
    ground.wait_leader(0, &a);
    ground.stop(&a);

    // The data of one cluster under the store of another.
    fs::remove_dir_all(ground.path("b-store")).unwrap_or_default();
    let b = ground.start("b", &yaml_b);
    ground.wait_leader(2, &b);
    ground.stop(&b);
    let before = system_id(&ground.path("a-data"));
    let mixed = ground.start("mixed", &yaml_b.replace(&own_data, &same_data));
    wait_for_words(&mixed, &["belongs to the cluster"]);
    assert_eq!(before, system_id(&ground.path("a-data")), "the data is what it was");
    ground.host.kill_all().unwrap();
}

#[test]
fn members_that_do_not_find_together_say_why_and_go_on_waiting() {
    let mut ground = Ground::new();
    let (store_a, store_b) = (ground.port(4), ground.port(5));
    let raft = |own: u16, other: u16, password: &str| {
        format!("raft:\n  self_addr: 127.0.0.1:{own}\n  partner_addrs: ['127.0.0.1:{other}']\n  password: {password}\n")
    };
    let yaml_a = ground.yaml("a", 0).replace("raft:\n", &raft(store_a, store_b, "one"));
    let yaml_b = ground.yaml("b", 2).replace("raft:\n", &raft(store_b, store_a, "another"));
    let a = ground.start("a", &yaml_a);
    wait_for_words(&a, &["the embedded store is waiting to be formed", &format!("127.0.0.1:{store_b}")]);
    let b = ground.start("b", &yaml_b);
    for member in [&a, &b] {
        wait_for_words(member, &["the password in raft.password differs"]);
    }
    assert!(!ground.path("a-data").join("PG_VERSION").exists(), "a cluster was made without the other member");
    for member in [&a, &b] {
        assert_eq!(ground.host.ended(member.pid).unwrap(), None, "it goes on waiting");
    }
    ground.host.kill_all().unwrap();
}
