//! Voters of the embedded store without servers, each a process of `pgbaton witness` with a port and a directory of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::dirs::{DirError, TempDir};
use crate::netns::{Network, NetworkError};
use crate::ports::{PortError, PortLease};
use crate::process::{Launch, Process, ProcessError};
use crate::slow_disk::{SlowDisk, SlowDiskError};
use crate::user::{OsUser, UserError};

/// The password of voters that have one; it is also the name that a client may use.
pub const PASSWORD: &str = "test";

/// Where the voters are when each has a host of its own.
const PORT: u16 = 2380;

/// Why voters cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VotersError {
    /// No user to run them as.
    #[error("no user for the voters")]
    User(#[from] UserError),
    /// No ports.
    #[error("no ports for the voters")]
    Ports(#[from] PortError),
    /// No directory.
    #[error("no directory for the voters")]
    Directory(#[from] DirError),
    /// One did not start, or did not take a signal.
    #[error("a voter")]
    Process(#[from] ProcessError),
    /// Their network cannot be made or changed.
    #[error("the voters' network")]
    Network(#[from] NetworkError),
    /// A disk cannot be made slow.
    #[error("a voter's disk")]
    Disk(#[from] SlowDiskError),
    /// One that should run does not.
    #[error("voter {0} does not run")]
    NotRunning(usize),
}

/// All voters, which end with this.
#[derive(Debug)]
pub struct Voters {
    // Before the network: a namespace goes when its last process has gone.
    members: Vec<Voter>,
    program: PathBuf,
    password: bool,
    user: OsUser,
    directory: TempDir,
    network: Option<Network>,
}

#[derive(Debug)]
struct Voter {
    data: PathBuf,
    endpoint: String,
    disk: Option<SlowDisk>,
    process: Option<Process>,
    _port: Option<PortLease>,
}

impl Voters {
    /// Starts so many on loopback, with nothing in them and without a password, in a directory of `parent`.
    ///
    /// # Errors
    /// When they cannot be started; that one ends soon after is in its log.
    pub fn on_loopback(program: &Path, parent: &Path, count: usize) -> Result<Self, VotersError> {
        let mut voters = Self::none(program, parent, None)?;
        for number in 0..count {
            let port = PortLease::hold()?;
            let endpoint = format!("127.0.0.1:{}", port.port());
            let data = voters.directory.subdir(&format!("v{number}"), &voters.user)?;
            voters.members.push(Voter { data, endpoint, disk: None, process: None, _port: Some(port) });
        }
        voters.run_all()
    }

    /// Starts so many, each on a host of its own and with a disk that can be made slow, with a password. Needs root.
    ///
    /// # Errors
    /// When they cannot be started; that one ends soon after is in its log.
    pub fn on_hosts(program: &Path, parent: &Path, count: u8) -> Result<Self, VotersError> {
        let network = Network::new(count)?;
        let endpoints: Vec<String> = network.hosts().map(|host| format!("{}:{PORT}", network.address(host))).collect();
        let mut voters = Self::none(program, parent, Some(network))?;
        for (number, endpoint) in endpoints.into_iter().enumerate() {
            let data = voters.directory.subdir(&format!("v{number}"), &voters.user)?;
            let disk = Some(SlowDisk::new(voters.directory.path(), &format!("disk{number}"))?);
            voters.members.push(Voter { data, endpoint, disk, process: None, _port: None });
        }
        voters.run_all()
    }

    fn none(program: &Path, parent: &Path, network: Option<Network>) -> Result<Self, VotersError> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new_in(parent, "voters", &user)?;
        let password = network.is_some();
        Ok(Self { members: Vec::new(), program: program.to_owned(), password, user, directory, network })
    }

    fn run_all(mut self) -> Result<Self, VotersError> {
        for number in 0..self.members.len() {
            self.start_member(number)?;
        }
        Ok(self)
    }

    /// `host:port` of each, for peers and for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|voter| voter.endpoint.clone()).collect()
    }

    /// The process of one, if it runs.
    pub fn pid(&self, number: usize) -> Option<Pid> {
        self.members[number].process.as_ref().map(Process::pid)
    }

    /// Starts one that is not running, on what is in its directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&mut self, number: usize) -> Result<(), VotersError> {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != number);
        let others: Vec<String> = others.map(|(_, voter)| format!("'{}'", voter.endpoint)).collect();
        let voter = &self.members[number];
        let mut config = format!(
            "raft:\n  data_dir: {}\n  self_addr: {}\n  partner_addrs: [{}]\n",
            voter.data.display(),
            voter.endpoint,
            others.join(", ")
        );
        if self.password {
            config.push_str(&format!("  password: {PASSWORD}\n"));
        }
        let config = self.directory.file(&format!("v{number}.yml"), &config, &self.user)?;
        let mut launch = self.launch(number);
        launch = launch.args(["witness", &config.display().to_string()]);
        for (name, value) in voter.disk.iter().flat_map(SlowDisk::environment) {
            launch = launch.env(name, value);
        }
        self.members[number].process = Some(Process::start(&launch)?);
        Ok(())
    }

    fn launch(&self, number: usize) -> Launch {
        let log = self.directory.path().join(format!("v{number}.log"));
        let Some(network) = &self.network else { return Launch::new(&self.program, log).user(&self.user) };
        let host = network.hosts().nth(number).unwrap_or_default();
        // It enters the namespace as root and goes on as the other user.
        Launch::new("nsenter", log).args([
            format!("--net=/run/netns/{}", network.namespace(host)),
            format!("--setuid={}", self.user.uid),
            format!("--setgid={}", self.user.gid),
            "--".to_owned(),
            self.program.display().to_string(),
        ])
    }

    /// Kills one as a loss of power would, but for the writes that the kernel has.
    pub fn kill(&mut self, number: usize) {
        // Dropping a process kills it and waits for its end.
        self.members[number].process = None;
    }

    /// Stops one in the middle of whatever it does ([`Signal::STOP`]), or lets it go on ([`Signal::CONT`]).
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, number: usize, signal: Signal) -> Result<(), VotersError> {
        let process = self.members[number].process.as_ref().ok_or(VotersError::NotRunning(number))?;
        Ok(process.signal(signal)?)
    }

    /// Makes the syncs of one take this much longer; without effect on loopback.
    ///
    /// # Errors
    /// When the delay cannot be written.
    pub fn set_delay(&self, number: usize, delay: Duration) -> Result<(), VotersError> {
        self.members[number].disk.iter().try_for_each(|disk| Ok(disk.set_delay(delay)?))
    }

    /// Parts one from all other voters, and from nobody else, or puts it back; without effect on loopback.
    ///
    /// # Errors
    /// When the network cannot be changed.
    pub fn set_apart(&self, number: usize, apart: bool) -> Result<(), VotersError> {
        let Some(network) = &self.network else { return Ok(()) };
        let hosts: Vec<u8> = network.hosts().collect();
        for other in hosts.iter().filter(|other| **other != hosts[number]) {
            if apart { network.part(hosts[number], *other)? } else { network.rejoin(hosts[number], *other)? }
        }
        Ok(())
    }
}
