//! A real etcd, of one member or several, each with ports and a directory of its own.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use crate::dirs::{DirError, TempDir};
use crate::ports::{PortError, PortLease};
use crate::process::{Launch, Process, ProcessError};
use crate::user::{OsUser, UserError};

/// Debian's package `etcd-server`: 3.4 in Debian 12.
pub const ETCD: &str = "/usr/bin/etcd";

/// Why an etcd cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No user to run it as.
    #[error("no user for etcd")]
    User(#[from] UserError),
    /// No ports.
    #[error("no ports for etcd")]
    Ports(#[from] PortError),
    /// No directory.
    #[error("no directory for etcd")]
    Directory(#[from] DirError),
    /// It did not start, or did not take a signal.
    #[error("etcd")]
    Process(#[from] ProcessError),
}

/// The members, all of which end with this.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    program: PathBuf,
    user: OsUser,
    directory: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    data: PathBuf,
    /// For clients, then for peers.
    ports: Vec<PortLease>,
    process: Option<Process>,
}

impl Etcd {
    /// Starts so many members, with nothing in them. They answer a moment later.
    ///
    /// # Errors
    /// When they cannot be started; that one ends soon after is in its log.
    pub fn start(members: usize) -> Result<Self, EtcdError> {
        Self::start_in(Path::new(ETCD), &std::env::temp_dir(), members)
    }

    /// The same of another program, in a directory of `parent`, on a disk that is not the temporary one, for example.
    ///
    /// # Errors
    /// When they cannot be started; that one ends soon after is in its log.
    pub fn start_in(program: &Path, parent: &Path, members: usize) -> Result<Self, EtcdError> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new_in(parent, "etcd", &user)?;
        let member = |number: usize| {
            let name = format!("e{number}");
            let data = directory.subdir(&name, &user)?;
            Ok::<_, EtcdError>(Member { name, data, ports: PortLease::hold_many(2)?, process: None })
        };
        let members = (0..members).map(member).collect::<Result<Vec<_>, _>>()?;
        let mut etcd = Self { members, program: program.to_owned(), user, directory };
        for member in 0..etcd.members.len() {
            etcd.start_member(member)?;
        }
        Ok(etcd)
    }

    /// `host:port` for clients of each member.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    /// `host:port` for clients of one member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].ports[0].port())
    }

    /// `host:port` for the other members of one member.
    pub fn peer_endpoint(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].ports[1].port())
    }

    /// Where a member has its data.
    pub fn data_dir(&self, member: usize) -> &Path {
        &self.members[member].data
    }

    /// The process of one member, if it runs.
    pub fn pid(&self, member: usize) -> Option<Pid> {
        self.members[member].process.as_ref().map(Process::pid)
    }

    /// Starts a member that is not running, on what is in its directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&mut self, member: usize) -> Result<(), EtcdError> {
        let peers: Vec<String> = self.members.iter().map(|one| format!("{}={}", one.name, peer_url(one))).collect();
        let one = &self.members[member];
        let client = format!("http://{}", self.endpoint(member));
        let arguments = [
            ("--name", one.name.clone()),
            ("--data-dir", one.data.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer_url(one)),
            ("--initial-advertise-peer-urls", peer_url(one)),
            ("--initial-cluster", peers.join(",")),
        ];
        let arguments = arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let log = self.directory.path().join(format!("{}.log", one.name));
        let launch = Launch::new(&self.program, log).args(arguments).user(&self.user);
        self.members[member].process = Some(Process::start(&launch)?);
        Ok(())
    }

    /// Kills a member as a loss of power would, but for the writes that the kernel has.
    pub fn kill(&mut self, member: usize) {
        // Dropping a process kills it and waits for its end.
        self.members[member].process = None;
    }

    /// Stops a member in the middle of whatever it does ([`Signal::STOP`]), or lets it go on ([`Signal::CONT`]).
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, member: usize, signal: Signal) -> Result<(), EtcdError> {
        self.members[member].process.as_ref().map_or(Ok(()), |process| Ok(process.signal(signal)?))
    }
}

fn peer_url(member: &Member) -> String {
    format!("http://127.0.0.1:{}", member.ports[1].port())
}
