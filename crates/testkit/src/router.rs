//! A router in front of a cluster, as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use crate::cluster::Cluster;
use crate::dirs::{DirError, TempDir};
use crate::ports::{PortError, PortLease};
use crate::process::{Launch, Process, ProcessError};
use crate::user::{OsUser, UserError};

/// Why a router cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// No user to run it as.
    #[error("no user for the router")]
    User(#[from] UserError),
    /// No ports.
    #[error("no ports for the router")]
    Ports(#[from] PortError),
    /// No directory.
    #[error("no directory for the router")]
    Directory(#[from] DirError),
    /// It did not start, or did not take a signal.
    #[error("the router")]
    Process(#[from] ProcessError),
}

/// A router with a port that writes, one that reads, and its metrics.
#[derive(Debug)]
pub struct Router {
    process: Process,
    ports: Vec<PortLease>,
    config: PathBuf,
    directory: TempDir,
    user: OsUser,
    store: String,
}

impl Router {
    /// Starts one that follows a cluster. `settings` are lines below `router`, `reading` more keys of the port that reads.
    ///
    /// # Errors
    /// When it cannot be started; that it ends soon after is in its log.
    pub fn start(program: &Path, cluster: &Cluster, settings: &str, reading: &str) -> Result<Self, RouterError> {
        Self::start_on(program, &cluster.client_section(), settings, reading)
    }

    /// The same with a section of a store.
    ///
    /// # Errors
    /// When it cannot be started; that it ends soon after is in its log.
    pub fn start_on(program: &Path, store: &str, settings: &str, reading: &str) -> Result<Self, RouterError> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new("router", &user)?;
        let ports = PortLease::hold_many(3)?;
        let store = store.to_owned();
        let text = config(&store, &ports, settings, reading);
        let config = directory.file("router.yml", &text, &user)?;
        let log = directory.path().join("router.log");
        let launch = Launch::new(program, log).args(["router".to_owned(), config.display().to_string()]).user(&user);
        let process = Process::start(&launch)?;
        Ok(Self { process, ports, config, directory, user, store })
    }

    /// Gives it other settings, which it takes when it reads its configuration anew.
    ///
    /// # Errors
    /// When the file cannot be written, or it does not run.
    pub fn reload(&self, settings: &str, reading: &str) -> Result<(), RouterError> {
        self.reload_text(&config(&self.store, &self.ports, settings, reading))
    }

    /// The same with a whole configuration.
    ///
    /// # Errors
    /// When the file cannot be written, or it does not run.
    pub fn reload_text(&self, text: &str) -> Result<(), RouterError> {
        let name = self.config.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.directory.file(name, text, &self.user)?;
        Ok(self.process.signal(Signal::HUP)?)
    }

    /// The port that leads to the primary.
    pub fn writes(&self) -> SocketAddr {
        self.address(0)
    }

    /// The port that leads to standbys.
    pub fn reads(&self) -> SocketAddr {
        self.address(1)
    }

    /// Where its metrics are.
    pub fn metrics(&self) -> SocketAddr {
        self.address(2)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Its process, to be signalled or waited for.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn address(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port].port()))
    }
}

fn config(store: &str, ports: &[PortLease], settings: &str, reading: &str) -> String {
    let [writes, reads, metrics] = [0, 1, 2].map(|port: usize| ports[port].port());
    format!(
        "scope: test
{store}router:
  metrics: 127.0.0.1:{metrics}
{settings}  ports:
  - {{name: rw, listen: 127.0.0.1:{writes}, mode: read-write}}
  - {{name: ro, listen: 127.0.0.1:{reads}, mode: read-only{reading}}}
"
    )
}
