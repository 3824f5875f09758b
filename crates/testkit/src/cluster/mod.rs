//! A cluster of pgbaton members with the embedded store: for the demo, the trials and the tests of the binary.
//!
//! Each member is a [`Host`] with its own YAML, data, store and log below one directory, either on held loopback ports or
//! (as root) in a network namespace whose link can be cut. Members are looked at from outside only: over REST, by SQL, by
//! their processes. Nothing here waits for a time instead of a state, and nothing decides anything about the cluster.

mod error;
mod faults;
mod http;
mod layout;
mod random;
mod servers;
mod view;

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::process::Launch;
use crate::user::OsUser;
use crate::writer::{Target, Writer};
use crate::{Etcd, Host, HostProgram, Network, TempDir, install, postgres, wait};

pub use error::ClusterError;
pub use faults::Part;
pub use http::{Answer, ask};
pub use layout::{Options, Place, SUPERUSER_PASSWORD, StoreKind};
pub use random::Random;
pub use servers::{Rows, ServerState};
pub use view::MemberView;

use layout::{Member, RAFT_PASSWORD};
use pgbaton_types::chain;

/// Result of everything that is done to a cluster.
pub type Outcome<T = ()> = Result<T, ClusterError>;

/// The superuser of every member's server.
pub const SUPERUSER: &str = "postgres";

/// Lines of each member's log that are shown when a test fails: some loops of a few lines each, and the server's last words.
const LOG_TAIL: usize = 60;

/// The programs that a cluster is made of.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The binary under test. Copied, so that a build meanwhile does not change it.
    pub pgbaton: PathBuf,
    /// What becomes a host.
    pub host: HostProgram,
}

/// Members, numbered from 0, and what can be done to them. Everything goes when this is dropped; when that happens in a
/// panic, the end of each member's log is shown.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    program: PathBuf,
    bin_dir: PathBuf,
    members: Vec<Member>,
    hosts: Vec<RefCell<Host>>,
    agents: Vec<Option<Pid>>,
    etcd: Option<Etcd>,
    // In this order after the hosts: namespaces go when nothing runs in them, the directory when nobody writes to it.
    network: Option<Network>,
    directory: TempDir,
}

impl Cluster {
    /// Prepares the hosts and the files of all members. Nothing of pgbaton runs yet.
    pub fn new(programs: &Programs, options: Options) -> Outcome<Self> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new("c", &user)?;
        let program = directory.path().join("pgbaton");
        install(&programs.pgbaton, &program)
            .map_err(|source| ClusterError::File { path: programs.pgbaton.clone(), source })?;
        let network = match options.place {
            Place::Loopback => None,
            Place::Namespaces => Some(Network::new(options.members)?),
        };
        let members = Member::all(&options, network.as_ref(), &directory, &user)?;
        let bin_dir = options.bin_dir.clone().map_or_else(postgres::bin_dir, Ok)?;
        let etcd = match options.store {
            StoreKind::Embedded => None,
            StoreKind::Etcd(count) => Some(Etcd::start(count)?),
        };
        let mut hosts = Vec::new();
        for member in &members {
            let program = match &network {
                Some(network) => programs.host.inside(&network.namespace(member.number)),
                None => programs.host.clone(),
            };
            hosts.push(RefCell::new(Host::start(&member.name, &program)?));
        }
        let agents = vec![None; members.len()];
        let cluster = Self { options, program, bin_dir, members, hosts, agents, etcd, network, directory };
        cluster.configure(cluster.options.store)?;
        Ok(cluster)
    }

    /// Writes every member's file, for this store. Agents that run see it when they are told to.
    fn configure(&self, store: StoreKind) -> Outcome {
        let endpoints = self.etcd.as_ref().filter(|_| store != StoreKind::Embedded).map(Etcd::endpoints);
        for member in &self.members {
            let text = member.yaml(&self.options, &self.members, endpoints.as_deref(), &self.bin_dir);
            self.directory.file(&format!("{}.yml", member.name), &text, &member.user)?;
        }
        Ok(())
    }

    /// Writes every member's file for another store, which is there from now on if it is an etcd. The members are told by others.
    pub fn name_store(&mut self, store: StoreKind) -> Outcome {
        if let (StoreKind::Etcd(count), None) = (store, &self.etcd) {
            self.etcd = Some(Etcd::start(count)?);
        }
        self.configure(store)
    }

    /// How it was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The etcd that its members share, if they do.
    pub fn etcd(&mut self) -> Option<&mut Etcd> {
        self.etcd.as_mut()
    }

    /// How many members it has.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A member's name in the cluster.
    pub fn name(&self, member: usize) -> &str {
        &self.members[member].name
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }

    /// Starts a member that does not run.
    pub fn start(&mut self, member: usize) -> Outcome {
        let this = &self.members[member];
        let launch = if self.options.network_rights {
            self.with_network_rights(member)
        } else {
            Launch::new(self.program.clone(), this.log()).user(&this.user)
        };
        let launch = launch
            .env("TMPDIR", std::env::temp_dir().to_string_lossy())
            .args(["agent".to_owned(), self.config(member).display().to_string()]);
        self.agents[member] = Some(self.hosts[member].borrow_mut().launch(&launch)?);
        Ok(())
    }

    /// What starts a member with the rights to change addresses.
    fn with_network_rights(&self, member: usize) -> Launch {
        let this = &self.members[member];
        let (uid, gid) = (this.user.uid, this.user.gid);
        let rights = "+net_admin,+net_raw";
        let mut launch = Launch::new("setpriv", this.log()).user(&this.user).args([
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
            format!("--inh-caps={rights}"),
            format!("--ambient-caps={rights}"),
            self.program.display().to_string(),
        ]);
        // It changes the user itself, when it has set the rights aside.
        launch.user = None;
        launch
    }

    /// The network that its members are in, if they are in one.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Runs SQL on whichever server is at this address.
    pub fn sql_at(&self, address: SocketAddr, statement: &str) -> Outcome<Rows> {
        servers::rows(address, SUPERUSER, SUPERUSER_PASSWORD, statement)
    }

    /// Starts all members that do not run, in their order.
    pub fn start_all(&mut self) -> Outcome {
        for member in 0..self.size() {
            if !self.is_running(member)? {
                self.start(member)?;
            }
        }
        Ok(())
    }

    /// Whether a member was started and has not ended.
    pub fn is_running(&self, member: usize) -> Outcome<bool> {
        Ok(self.agents[member].is_some() && self.exit_code(member)?.is_none())
    }

    /// How a member that was started has ended; none while it runs.
    pub fn exit_code(&self, member: usize) -> Outcome<Option<i32>> {
        match self.agents[member] {
            Some(pid) => Ok(self.hosts[member].borrow_mut().ended(pid)?),
            None => Ok(None),
        }
    }

    /// SIGTERM, as a service manager does it, and waits until the member has ended and nothing of it is left.
    pub fn stop_member(&mut self, member: usize, limit: Duration) -> Outcome<i32> {
        self.terminate(member)?;
        let awaited = format!("the end of {}", self.name(member));
        let code = wait::until(&awaited, limit, || match self.exit_code(member) {
            Ok(Some(code)) => Ok(code),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })?;
        wait::until(&format!("{awaited} and of all its processes"), limit, || match self.processes(member) {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(format!("{left:?}")),
            Err(error) => Err(error.to_string()),
        })?;
        self.agents[member] = None;
        Ok(code)
    }

    /// SIGTERM to a member, without waiting.
    pub fn terminate(&mut self, member: usize) -> Outcome {
        let pid = self.agents[member]
            .ok_or_else(|| ClusterError::NoProcess { member: self.name(member).to_owned(), part: Part::OuterGuard })?;
        Ok(self.hosts[member].borrow_mut().signal(pid, Signal::TERM)?)
    }

    /// Waits until one server is primary, all others stream from it, and the members say the same.
    pub fn wait_healthy(&self, limit: Duration) -> Outcome {
        let servers = self.servers();
        let all = servers.len();
        self.awaiting("one primary, all others streaming, and all members knowing it", limit, || {
            let states = servers::states(&servers, SUPERUSER, SUPERUSER_PASSWORD)?;
            let primaries = states.iter().filter(|state| state.is_primary()).count();
            let streaming = states.iter().filter(|state| state.is_streaming()).count();
            if primaries != 1 || streaming != all - 1 {
                return Ok(Err(format!("{states:?}")));
            }
            let views = self.views()?;
            let count = |role, state| views.iter().filter(|view| view.role == role && view.state == state).count();
            let known = count("leader", "running") == 1 && count("replica", "streaming") == all - 1;
            Ok(if known { Ok(()) } else { Err(format!("{views:?}")) })
        })
    }

    /// Waits until exactly one server takes writes, and gives it.
    pub fn wait_primary(&self, limit: Duration) -> Outcome<usize> {
        self.awaiting("one primary", limit, || {
            let states = self.states()?;
            let primaries: Vec<_> = (0..states.len()).filter(|member| states[*member].is_primary()).collect();
            Ok(if let [one] = primaries[..] { Ok(one) } else { Err(format!("{states:?}")) })
        })
    }

    /// Waits until a member's server streams from a primary.
    pub fn wait_streaming(&self, member: usize, limit: Duration) -> Outcome {
        self.awaiting(&format!("{} streaming", self.name(member)), limit, || {
            let state = self.states()?.swap_remove(member);
            Ok(if state.is_streaming() { Ok(()) } else { Err(format!("{state:?}")) })
        })
    }

    /// Looks until `look` answers with a value; an error of the look itself counts as something seen.
    pub fn awaiting<T>(
        &self,
        awaited: &str,
        limit: Duration,
        mut look: impl FnMut() -> Outcome<Result<T, String>>,
    ) -> Outcome<T> {
        Ok(wait::until(awaited, limit, || match look() {
            Ok(seen) => seen,
            Err(error) => Err(chain(&error)),
        })?)
    }

    /// The store as a section of the configuration of somebody who is no member.
    pub fn client_section(&self) -> String {
        match &self.etcd {
            Some(etcd) => format!("etcd3:\n  hosts: {}\n", etcd.endpoints().join(",")),
            None => {
                let members: Vec<String> =
                    (0..self.size()).map(|member| self.store_address(member).to_string()).collect();
                format!("raft:\n  partner_addrs: [{}]\n  password: {RAFT_PASSWORD}\n", members.join(", "))
            }
        }
    }

    /// What each server says of itself.
    pub fn states(&self) -> Outcome<Vec<ServerState>> {
        servers::states(&self.servers(), SUPERUSER, SUPERUSER_PASSWORD)
    }

    /// The members as they know each other, from the first that answers `GET /cluster`.
    pub fn views(&self) -> Outcome<Vec<MemberView>> {
        view::of(&self.rest_addresses())
    }

    /// Who leads by the members' word.
    pub fn leader(&self) -> Outcome<Option<usize>> {
        Ok(self.views()?.iter().find(|view| view.role == "leader").and_then(|view| self.member(&view.name)))
    }

    /// Asks a member over REST. `limit` is for the answer.
    pub fn rest(&self, member: usize, method: &str, path: &str, body: &str, limit: Duration) -> Outcome<Answer> {
        http::ask(self.members[member].rest, method, path, body, limit)
    }

    /// The first step that a member says is blocked, and why; none while nothing is, or while it does not answer.
    pub fn blocked(&self, member: usize) -> Option<String> {
        let answer = self.rest(member, "GET", "/explain", "", Duration::from_secs(2)).ok()?;
        view::blocked(&answer.json())
    }

    /// The database system identifier of a member's data, whether its server runs or not: the first eight bytes of the
    /// control file (`ControlFileData` in PostgreSQL's `catalog/pg_control.h`), in the byte order of the machine.
    pub fn system_id(&self, member: usize) -> Outcome<u64> {
        let path = self.data_dir(member).join("global/pg_control");
        let mut bytes = [0; 8];
        let read = fs::File::open(&path).and_then(|mut file| file.read_exact(&mut bytes));
        read.map(|()| u64::from_ne_bytes(bytes)).map_err(|source| ClusterError::File { path, source })
    }

    /// Asks `asked` for a switchover from one member to another, or to whichever is best; answers when it is over.
    pub fn switchover(&self, asked: usize, from: usize, to: Option<usize>) -> Outcome<Answer> {
        /// Longest wait for the answer; a member gives up after 20 s by itself.
        const LIMIT: Duration = Duration::from_secs(40);
        let mut request = serde_json::json!({"leader": self.name(from)});
        if let Some(to) = to {
            request["candidate"] = self.name(to).into();
        }
        self.rest(asked, "POST", "/switchover", &request.to_string(), LIMIT)
    }

    /// Runs SQL on a member's server: the rows of the last statement.
    pub fn sql(&self, member: usize, statement: &str) -> Outcome<Rows> {
        servers::rows(self.members[member].postgres, SUPERUSER, SUPERUSER_PASSWORD, statement)
    }

    /// Where the servers listen, in the order of the members.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.postgres).collect()
    }

    /// Where the members' REST servers listen, in the order of the members.
    pub fn rest_addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.rest).collect()
    }

    /// The superuser on all servers.
    pub fn target(&self) -> Target {
        let (user, password) = (SUPERUSER.to_owned(), Some(SUPERUSER_PASSWORD.to_owned()));
        Target { servers: self.servers(), user, password, database: "postgres".to_owned() }
    }

    /// Starts a writer to all servers.
    pub fn writer(&self) -> Outcome<Writer> {
        Ok(Writer::start(&self.target())?)
    }

    /// A member's configuration file, for the command line's `-c`.
    pub fn config(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("{}.yml", self.name(member)))
    }

    /// The copy of the binary that the members run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A member's data directory.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.members[member].data_dir()
    }

    /// A member's part of the embedded store.
    pub fn raft_dir(&self, member: usize) -> PathBuf {
        self.members[member].raft_dir()
    }

    /// Where a member's voter of the embedded store listens.
    pub fn store_address(&self, member: usize) -> SocketAddr {
        self.members[member].raft
    }

    /// The directory of a member's Unix socket: reached also when its link is cut.
    pub fn socket_dir(&self, member: usize) -> PathBuf {
        self.members[member].directory.clone()
    }

    /// The port of a member's server.
    pub fn postgres_port(&self, member: usize) -> u16 {
        self.members[member].postgres.port()
    }

    /// What a member has written: guard, agent and server.
    pub fn log_path(&self, member: usize) -> PathBuf {
        self.members[member].log()
    }

    /// The last lines of every member's log.
    pub fn log_ends(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            let log = fs::read(member.log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            // Whoever waits for a server asks it again and again.
            let lines: Vec<_> =
                log.lines().filter(|line| !line.contains("the database system is starting up")).collect();
            let end = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            text.push_str(&format!("--- {} ({})\n{}\n", member.name, member.log().display(), end.join("\n")));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Losing it is right: the test has failed and said why; this is help.
            let _ = writeln!(std::io::stderr().lock(), "{}", self.log_ends());
        }
    }
}
