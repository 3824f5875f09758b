//! What differs between the systems that are measured: how a member is configured and started. All else, REST included,
//! is the same, since one is a drop-in for the other.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use pgbaton_testkit::{Launch, OsUser};

use crate::Outcome;
use crate::events::Event;

/// One configuration of a system, and what is measured with it.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// How it is called in the result.
    pub(crate) name: &'static str,
    /// `ttl`, in seconds.
    pub(crate) ttl: u32,
    /// `loop_wait`, in seconds.
    pub(crate) loop_wait: u32,
    /// `retry_timeout`, in seconds.
    pub(crate) retry_timeout: u32,
    /// What is measured.
    pub(crate) events: &'static [Event],
}

/// A member-to-be: one host and what is its own.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The number of its host, from 1.
    pub(crate) host: u8,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The addresses of all members, its own included.
    pub(crate) all: Vec<Ipv4Addr>,
    /// Its own directory: data, store, sockets, logs.
    pub(crate) directory: PathBuf,
    /// Where PostgreSQL's programs are.
    pub(crate) bin_dir: PathBuf,
    /// Whom servers and agents run as.
    pub(crate) user: OsUser,
}

/// The ports inside each namespace: nobody else is there.
pub(crate) const POSTGRES_PORT: u16 = 5432;
pub(crate) const REST_PORT: u16 = 8008;

/// The superuser's password.
pub(crate) const PASSWORD: &str = "bench-superuser";

impl Member {
    /// Its name in the cluster.
    pub(crate) fn name(&self) -> String {
        format!("h{}", self.host)
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A program of this member, run as its user with its output in a log of its own.
    pub(crate) fn launch(&self, program: PathBuf, log: &str) -> Launch {
        Launch::new(program, self.directory.join(log)).user(&self.user).env("TMPDIR", "/tmp")
    }

    /// The configuration that both systems read; `store` is the section of the store.
    pub(crate) fn yaml(&self, variant: &Variant, store: &str) -> String {
        let (name, address) = (self.name(), self.address);
        let directory = self.directory.display();
        let Variant { ttl, loop_wait, retry_timeout, .. } = variant;
        format!(
            "scope: bench
name: {name}
restapi:
  listen: {address}:{REST_PORT}
  connect_address: {address}:{REST_PORT}
{store}bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      use_slots: true
  initdb:
    - encoding: UTF8
    - data-checksums
  pg_hba:
    - local all all trust
    - host all all 10.213.0.0/16 scram-sha-256
    - host replication replicator 10.213.0.0/16 scram-sha-256
postgresql:
  listen: {address}:{POSTGRES_PORT}
  connect_address: {address}:{POSTGRES_PORT}
  data_dir: {directory}/data
  bin_dir: {}
  pgpass: {directory}/pgpass
  authentication:
    superuser:
      username: postgres
      password: {PASSWORD}
    replication:
      username: replicator
      password: bench-replication
  parameters:
    unix_socket_directories: {directory}
",
            self.bin_dir.display()
        )
    }
}

/// A system that keeps a cluster available.
pub(crate) trait System {
    /// Its name in the result, with its version.
    fn name(&self) -> &str;

    /// The configurations that are measured.
    fn variants(&self) -> Vec<Variant>;

    /// What runs on a host before the members and survives them: the store's server, if it is one of its own.
    fn store(&self, member: &Member) -> Option<Launch>;

    /// The member's configuration file.
    fn configuration(&self, member: &Member, variant: &Variant) -> String;

    /// The member's agent, once its configuration is written to `config`.
    fn agent(&self, member: &Member, config: &std::path::Path) -> Outcome<Launch>;
}
