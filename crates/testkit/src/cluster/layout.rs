//! Where a member has its ports and files, and its configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{Outcome, SUPERUSER};
use crate::{Network, OsUser, PortLease, TempDir};

/// The password of the embedded store.
pub(super) const RAFT_PASSWORD: &str = "test-raft";
/// The superuser's password on every server.
pub const SUPERUSER_PASSWORD: &str = "test-superuser";

/// The ports inside a namespace, where nobody else is: PostgreSQL, REST, embedded store.
const NAMESPACE_PORTS: [u16; 3] = [5432, 8008, 2380];

/// Where the members are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On held ports of the loopback address. Needs no rights.
    Loopback,
    /// Each in a network namespace with a link of its own. Needs root.
    Namespaces,
}

/// What the members share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// The store that each of them carries.
    Embedded,
    /// A real etcd of so many members, on loopback.
    Etcd(usize),
}

/// How a cluster is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the members share.
    pub store: StoreKind,
    /// How many members; each is a voter.
    pub members: u8,
    /// Voters of the embedded store besides them, as `host:port`: witnesses, which the test runs itself.
    pub witnesses: Vec<String>,
    /// Where they are.
    pub place: Place,
    /// `ttl`, in seconds, at least 5.
    pub ttl: f64,
    /// `loop_wait`, in seconds.
    pub loop_wait: f64,
    /// `retry_timeout`, in seconds; `loop_wait` and twice this must not exceed `ttl`.
    pub retry_timeout: f64,
    /// `max_connections` of every server.
    pub max_connections: u32,
    /// More lines of `bootstrap.dcs`, without their indentation.
    pub dcs: Vec<String>,
    /// More lines of the servers' `parameters` in `bootstrap.dcs.postgresql`, without their indentation.
    pub parameters: Vec<String>,
    /// More lines at the top level of every member's file.
    pub extra: String,
    /// The lines of the section `address`, with its indentation; `{network}` in it stands for the first three numbers of the members'
    /// network, `{network6}` for the first half of its IPv6 addresses, `{directory}` for the member's directory. Then the servers
    /// listen at every address.
    pub virtual_address: Option<String>,
    /// Members may change addresses and send packets of their own, as a systemd unit would allow it. Needs root.
    pub network_rights: bool,
    /// PostgreSQL's programs; none: the installed ones.
    pub bin_dir: Option<PathBuf>,
}

impl Default for Options {
    /// Three members on loopback with the shortest lease: what most tests want.
    fn default() -> Self {
        Self {
            store: StoreKind::Embedded,
            members: 3,
            witnesses: Vec::new(),
            place: Place::Loopback,
            ttl: 5.0,
            loop_wait: 1.0,
            retry_timeout: 1.5,
            max_connections: 60,
            dcs: Vec::new(),
            parameters: Vec::new(),
            extra: String::new(),
            virtual_address: None,
            network_rights: false,
            bin_dir: None,
        }
    }
}

/// One member-to-be.
#[derive(Debug)]
pub(super) struct Member {
    /// From 1: the number of its host in the network.
    pub(super) number: u8,
    /// Its name in the cluster.
    pub(super) name: String,
    /// Where its server listens.
    pub(super) postgres: SocketAddr,
    /// Where its REST server listens.
    pub(super) rest: SocketAddr,
    /// Where its voter listens.
    pub(super) raft: SocketAddr,
    /// Its own directory: data, store, sockets, log.
    pub(super) directory: PathBuf,
    /// Whom it runs as.
    pub(super) user: OsUser,
    _ports: Vec<PortLease>,
}

impl Member {
    /// The members of a cluster.
    pub(super) fn all(
        options: &Options,
        network: Option<&Network>,
        directory: &TempDir,
        user: &OsUser,
    ) -> Outcome<Vec<Self>> {
        let mut members = Vec::new();
        for number in 1..=options.members {
            let name = format!("m{number}");
            let (address, ports, leases) = match network {
                Some(network) => (network.address(number), NAMESPACE_PORTS, Vec::new()),
                None => {
                    let leases = PortLease::hold_many(NAMESPACE_PORTS.len())?;
                    (Ipv4Addr::LOCALHOST, [leases[0].port(), leases[1].port(), leases[2].port()], leases)
                }
            };
            let [postgres, rest, raft] = ports.map(|port| SocketAddr::new(IpAddr::V4(address), port));
            let directory = directory.subdir(&name, user)?;
            let user = user.clone();
            members.push(Self { number, name, postgres, rest, raft, directory, user, _ports: leases });
        }
        Ok(members)
    }

    /// Its data directory.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its part of the store.
    pub(super) fn raft_dir(&self) -> PathBuf {
        self.directory.join("raft")
    }

    /// What its processes write.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("member.log")
    }

    /// The section of the embedded store.
    fn raft_section(&self, members: &[Self], witnesses: &[String]) -> String {
        let (directory, raft) = (self.directory.display(), self.raft);
        let others = members.iter().filter(|other| other.number != self.number);
        let others = others.map(|other| other.raft.to_string()).chain(witnesses.iter().cloned());
        let others: Vec<_> = others.map(|other| format!("- {other}")).collect();
        // A cluster of one has nobody to name.
        let heading = if others.is_empty() { "" } else { "  partner_addrs:\n" };
        let partners = format!("{heading}{}", indented(4, &others));
        format!("raft:\n  data_dir: {directory}/raft\n  self_addr: {raft}\n  password: {RAFT_PASSWORD}\n{partners}")
    }

    /// The section of the virtual address.
    fn address_section(&self, lines: &str) -> String {
        let octets = match self.postgres.ip() {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.octets(),
        };
        let network = format!("{}.{}.{}", octets[0], octets[1], octets[2]);
        let lines = lines.replace("{network}", &network).replace("{network6}", &format!("fd00:d5:0:{:x}", octets[2]));
        format!("address:\n{}", lines.replace("{directory}", &self.directory.display().to_string()))
    }

    /// Its configuration, in Patroni's format; `etcd` are the endpoints of the store, if it is one.
    pub(super) fn yaml(&self, options: &Options, members: &[Self], etcd: Option<&[String]>, bin_dir: &Path) -> String {
        let Self { name, postgres, rest, .. } = self;
        let store = match etcd {
            Some(endpoints) => format!("etcd3:\n  hosts: {}\n", endpoints.join(",")),
            None => self.raft_section(members, &options.witnesses),
        };
        let Options { ttl, loop_wait, retry_timeout, max_connections, extra, .. } = options;
        let (directory, bin_dir) = (self.directory.display(), bin_dir.display());
        let address = options.virtual_address.as_ref().map(|lines| self.address_section(lines)).unwrap_or_default();
        let listen = match options.virtual_address {
            Some(_) => format!("\"*:{}\"", postgres.port()),
            None => postgres.to_string(),
        };
        let dcs = indented(4, &options.dcs);
        let parameters = indented(8, &options.parameters);
        format!(
            "scope: test
name: {name}
restapi:
  listen: {rest}
  connect_address: {rest}
{store}bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
{dcs}    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: {max_connections}
{parameters}  initdb:
    - encoding: UTF8
    - data-checksums
  pg_hba:
    - local all all trust
    - host replication replicator 127.0.0.0/8 scram-sha-256
    - host all all 127.0.0.0/8 scram-sha-256
    - host replication replicator 10.213.0.0/16 scram-sha-256
    - host all all 10.213.0.0/16 scram-sha-256
    - host all all fd00:d5::/48 scram-sha-256
postgresql:
  listen: {listen}
  connect_address: {postgres}
  data_dir: {directory}/data
  bin_dir: {bin_dir}
  pgpass: {directory}/pgpass
  authentication:
    superuser:
      username: {SUPERUSER}
      password: {SUPERUSER_PASSWORD}
    replication:
      username: replicator
      password: test-replication
    rewind:
      username: rewind
      password: test-rewind
  parameters:
    unix_socket_directories: {directory}
    shared_buffers: 32MB
{address}{extra}"
        )
    }
}

/// Lines below a section.
fn indented(blanks: usize, lines: &[String]) -> String {
    lines.iter().flat_map(|line| [" ".repeat(blanks), line.clone(), "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_pgbaton_reads_without_a_word() {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("layout", &user).unwrap();
        for count in [1, 3] {
            let options = Options {
                members: count,
                dcs: vec!["primary_start_timeout: 5".into()],
                parameters: vec!["wal_keep_size: 64MB".into()],
                ..Options::default()
            };
            let members = Member::all(&options, None, &directory, &user);
            let members = members.unwrap_or_else(|error| panic!("{error}"));
            for member in &members {
                let text = member.yaml(&options, &members, None, Path::new("/usr/lib/postgresql/15/bin"));
                let loaded = pgbaton_config::load_text("member.yml", &text).unwrap();
                assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
                std::fs::remove_dir(&member.directory).unwrap();
            }
        }
    }
}
