use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_types::MemberName;

use crate::{Installation, Secret};

/// One local server as the configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// The member; its server's `application_name` when it streams.
    pub name: MemberName,
    /// The cluster; the server's `cluster_name`.
    pub scope: String,
    /// The data directory; the configuration files are there, too.
    pub data_dir: PathBuf,
    /// The programs.
    pub installation: Installation,
    /// `listen_addresses`: host names or addresses, separated by commas.
    pub listen_addresses: String,
    /// The port that the server listens on.
    pub port: u16,
    /// Where other members and clients reach this server.
    pub connect_address: HostPort,
    /// `unix_socket_directories`; empty leaves PostgreSQL's own default and makes the agent connect over TCP.
    pub unix_socket_directories: Vec<PathBuf>,
    /// The users that pgbaton connects as.
    pub authentication: Authentication,
    /// The database that pgbaton connects to (`postgresql.database`).
    pub database: String,
    /// Server settings, all layers of the configuration merged.
    pub parameters: BTreeMap<String, String>,
    /// The lines of `pg_hba.conf`; without them the file is left alone.
    pub pg_hba: Option<Vec<String>>,
    /// The lines of `pg_ident.conf`; without them the file is left alone.
    pub pg_ident: Option<Vec<String>>,
    /// The password file that pgbaton writes (`postgresql.pgpass`).
    pub pgpass: PathBuf,
    /// How long a start may take when nothing else says so (`postgresql.pg_ctl_timeout`).
    pub pg_ctl_timeout: Duration,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A host name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl HostPort {
    /// A host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The host as an address, when it is one: libpq then needs no name lookup, which could block a stop.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// The users that pgbaton connects as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Owner of the database cluster.
    pub superuser: Credentials,
    /// Streams WAL and takes base backups.
    pub replication: Credentials,
    /// What `pg_rewind` connects as; without it the superuser.
    pub rewind: Option<Credentials>,
}

impl Authentication {
    /// The user for `pg_rewind`.
    pub fn for_rewind(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The role.
    pub username: String,
    /// Its password; none for `trust`, `peer` or certificates.
    pub password: Option<Secret>,
    /// Further libpq keywords: `sslmode`, `sslcert`, `sslkey`, `sslrootcert`, `gssencmode`, `channel_binding` ...
    /// (Patroni's list; no `host`, `port`, `password` or `options`).
    pub options: BTreeMap<String, String>,
}

impl Credentials {
    /// A role with an optional password.
    pub fn new(username: impl Into<String>, password: Option<Secret>) -> Self {
        Self { username: username.into(), password, options: BTreeMap::new() }
    }
}

impl ServerSpec {
    /// A path in the data directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    /// How the agent reaches its own server: the first absolute socket directory, else the address for TCP.
    pub fn local_host(&self) -> LocalHost {
        match self.unix_socket_directories.iter().find(|dir| dir.is_absolute()) {
            Some(dir) => LocalHost::Socket(dir.clone()),
            None => LocalHost::Tcp(self.local_tcp_host().to_owned()),
        }
    }

    /// `localhost` where the server listens there, else the first address that it listens on (Patroni's rule).
    fn local_tcp_host(&self) -> &str {
        const LOOPBACK: [&str; 4] = ["*", "localhost", "0.0.0.0", "127.0.0.1"];
        let mut addresses = self.listen_addresses.split(',').map(str::trim).filter(|address| !address.is_empty());
        let first = addresses.clone().next();
        if addresses.any(|address| LOOPBACK.contains(&address)) { "127.0.0.1" } else { first.unwrap_or("127.0.0.1") }
    }
}

/// Where the agent connects to its own server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalHost {
    /// A directory with the server's socket.
    Socket(PathBuf),
    /// A host for TCP.
    Tcp(String),
}

/// The path as text for a setting or an argument.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec() -> ServerSpec {
        let secret = |text: &str| Some(crate::Secret::new(text));
        ServerSpec {
            name: "a".parse().unwrap(),
            scope: "demo".to_owned(),
            data_dir: PathBuf::from("/nowhere"),
            installation: Installation::default(),
            listen_addresses: "127.0.0.1".to_owned(),
            port: 5432,
            connect_address: HostPort::new("127.0.0.1", 5432),
            unix_socket_directories: Vec::new(),
            authentication: Authentication {
                superuser: Credentials::new("postgres", secret("s")),
                replication: Credentials::new("replicator", secret("r")),
                rewind: None,
            },
            database: "postgres".to_owned(),
            parameters: BTreeMap::new(),
            pg_hba: None,
            pg_ident: None,
            pgpass: PathBuf::from("/nowhere/pgpass"),
            pg_ctl_timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn the_agent_connects_by_socket_or_to_an_address_that_the_server_listens_on() {
        let mut spec = spec();
        for (listen, host) in
            [("*", "127.0.0.1"), ("10.0.0.5,localhost", "127.0.0.1"), ("10.0.0.5, 10.0.0.6", "10.0.0.5")]
        {
            listen.clone_into(&mut spec.listen_addresses);
            assert_eq!(spec.local_host(), LocalHost::Tcp(host.to_owned()));
        }
        spec.unix_socket_directories = vec!["@abstract".into(), "/run/x".into()];
        assert_eq!(spec.local_host(), LocalHost::Socket("/run/x".into()));
    }
}
