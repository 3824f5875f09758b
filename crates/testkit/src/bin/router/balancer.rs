//! What stands between clients and a server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgbaton_testkit::cluster::Cluster;
use pgbaton_testkit::figures::processor_seconds;
use pgbaton_testkit::process::{Launch, Process};
use pgbaton_testkit::router::Router;
use pgbaton_testkit::{OsUser, PortLease, TempDir, postgres, wait};

use crate::{LIMIT, Outcome};

/// Debian's package `haproxy`: 2.6 in Debian 12.
const HAPROXY: &str = "/usr/sbin/haproxy";

/// Ways to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Nothing in between
    Direct,
    /// HAProxy in TCP mode
    Haproxy,
    /// pgbaton's router
    Router,
}

impl Kind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy",
            Self::Router => "router",
        }
    }
}

/// One of them, with the programs that clients need.
pub(crate) struct Balancer {
    /// Where clients connect.
    pub(crate) at: SocketAddr,
    /// PostgreSQL's programs.
    pub(crate) bin_dir: PathBuf,
    way: Way,
}

enum Way {
    Direct,
    Haproxy(Haproxy),
    Router(Router),
}

/// A HAProxy that ends with this.
pub(crate) struct Haproxy {
    pub(crate) process: Process,
    pub(crate) port: PortLease,
    _directory: TempDir,
}

impl Haproxy {
    /// In front of one server, without checks: nothing but copying is measured.
    pub(crate) fn before(server: SocketAddr, connections: usize) -> Outcome<Self> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new("haproxy", &user)?;
        let port = PortLease::hold()?;
        let text = format!(
            "global\n  maxconn {connections}\n\
             listen pg\n  mode tcp\n  bind 127.0.0.1:{}\n  maxconn {connections}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  server s {server}\n",
            port.port()
        );
        let config = directory.file("haproxy.cfg", &text, &user)?;
        let log = directory.path().join("haproxy.log");
        // As root: it raises its limit of descriptors.
        let launch = Launch::new(HAPROXY, log).args(["-db".to_owned(), "-f".to_owned(), config.display().to_string()]);
        Ok(Self { process: Process::start(&launch)?, port, _directory: directory })
    }
}

impl Balancer {
    /// Starts it in front of the only member of a cluster, and waits until it leads there.
    pub(crate) fn before(kind: Kind, cluster: &Cluster, pgbaton: &Path, workers: Option<usize>) -> Outcome<Self> {
        let server = cluster.servers()[0];
        let (at, way) = match kind {
            Kind::Direct => (server, Way::Direct),
            Kind::Haproxy => {
                let haproxy = Haproxy::before(server, 1_000)?;
                (SocketAddr::from(([127, 0, 0, 1], haproxy.port.port())), Way::Haproxy(haproxy))
            }
            Kind::Router => {
                let settings = workers.map(|workers| format!("  workers: {workers}\n")).unwrap_or_default();
                let router = Router::start(pgbaton, cluster, &settings, "")?;
                (router.writes(), Way::Router(router))
            }
        };
        let balancer = Self { at, bin_dir: postgres::bin_dir()?, way };
        wait::until("a way to the server", LIMIT, || crate::load::ask(&balancer).map_err(|error| error.to_string()))?;
        Ok(balancer)
    }

    /// User and system time of its process so far, in seconds; none where there is none.
    pub(crate) fn processor_seconds(&mut self) -> Outcome<Option<f64>> {
        let process = match &mut self.way {
            Way::Direct => return Ok(None),
            Way::Haproxy(haproxy) => &haproxy.process,
            Way::Router(router) => router.process(),
        };
        Ok(Some(processor_seconds(&[process.pid().as_raw_nonzero().get()])?))
    }

    /// What it has said, for the error when it does not work.
    pub(crate) fn words(&mut self) -> String {
        match &mut self.way {
            Way::Direct => String::new(),
            Way::Haproxy(haproxy) => haproxy.process.output(),
            Way::Router(router) => router.process().output(),
        }
    }
}
