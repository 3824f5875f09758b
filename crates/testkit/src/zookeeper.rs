//! A real `ZooKeeper` of one server, with a port and a directory of its own.

use std::path::Path;

use rustix::process::Signal;

use crate::dirs::{DirError, TempDir};
use crate::ports::{PortError, PortLease};
use crate::process::{Launch, Process, ProcessError};
use crate::user::{OsUser, UserError};

/// What Debian's package `default-jre-headless` runs programs with.
const JAVA: &str = "/usr/bin/java";
/// Debian's package `zookeeper` (3.8 in Debian 12); what it needs besides is named in its manifest.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// The length of the server's tick in milliseconds: sessions may be as short as two of them.
const TICK_MS: u32 = 250;
/// The longest session in milliseconds. Without a word on it, 20 ticks are: less than a restart takes on a slow machine.
const SESSION_MAX_MS: u32 = 60_000;

/// Why a `ZooKeeper` cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ZooKeeperError {
    /// No user to run it as.
    #[error("no user for ZooKeeper")]
    User(#[from] UserError),
    /// No port.
    #[error("no port for ZooKeeper")]
    Port(#[from] PortError),
    /// No directory.
    #[error("no directory for ZooKeeper")]
    Directory(#[from] DirError),
    /// It did not start, or did not take a signal.
    #[error("ZooKeeper")]
    Process(#[from] ProcessError),
}

/// The server, which ends with this.
#[derive(Debug)]
pub struct ZooKeeper {
    port: PortLease,
    user: OsUser,
    // Ends before its directory goes.
    process: Option<Process>,
    directory: TempDir,
}

impl ZooKeeper {
    /// Has one that does not run yet, with nothing in it.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn prepared() -> Result<Self, ZooKeeperError> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new("zookeeper", &user)?;
        let port = PortLease::hold()?;
        let data = directory.subdir("data", &user)?;
        let config = format!(
            "tickTime={TICK_MS}\nmaxSessionTimeout={SESSION_MAX_MS}\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={}\nadmin.enableServer=false\n",
            data.display(),
            port.port()
        );
        directory.file("zoo.cfg", &config, &user)?;
        Ok(Self { port, user, directory, process: None })
    }

    /// Starts one with nothing in it. It answers a second or two later.
    ///
    /// # Errors
    /// When it cannot be started; that it ends soon after is in its log.
    pub fn started() -> Result<Self, ZooKeeperError> {
        let mut server = Self::prepared()?;
        server.start()?;
        Ok(server)
    }

    /// Starts it, on what is in its directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<(), ZooKeeperError> {
        let config = self.directory.path().join("zoo.cfg").display().to_string();
        let arguments = [
            "-Xmx128m",
            // Faster to start, and no files of measurements outside of its directory.
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-Dzookeeper.jmx.log4j.disable=true",
            "-cp",
            JAR,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            &config,
        ];
        let launch = Launch::new(Path::new(JAVA), self.directory.path().join("log")).args(arguments).user(&self.user);
        self.process = Some(Process::start(&launch)?);
        Ok(())
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }

    /// Kills it. What it has answered is on its disk.
    pub fn kill(&mut self) {
        // Dropping a process kills it and waits for its end.
        self.process = None;
    }

    /// Stops it in the middle of whatever it does ([`Signal::STOP`]), or lets it go on ([`Signal::CONT`]).
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), ZooKeeperError> {
        self.process.as_ref().map_or(Ok(()), |process| Ok(process.signal(signal)?))
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }
}
