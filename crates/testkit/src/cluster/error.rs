//! Why a cluster could not be made, looked at or changed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Part;
use crate::dirs::DirError;
use crate::etcd::EtcdError;
use crate::host::HostError;
use crate::netns::NetworkError;
use crate::ports::PortError;
use crate::postgres::NotInstalled;
use crate::user::UserError;
use crate::wait::TimedOut;
use crate::writer::WriterError;

/// What went wrong with a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No PostgreSQL.
    #[error(transparent)]
    NotInstalled(#[from] NotInstalled),
    /// No user for the servers.
    #[error(transparent)]
    User(#[from] UserError),
    /// No directory.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// No free port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No network, or a link that could not be changed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A host that did not do what it was asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The writer failed.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// A state did not come.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// A file or directory could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A member has no such process now.
    #[error("{member} has no process that is its {part}")]
    NoProcess {
        /// The member.
        member: String,
        /// What was looked for.
        part: Part,
    },
    /// Only namespaces have links that can be cut.
    #[error("the members are on loopback and have no links")]
    NoLinks,
    /// A member's REST server did not answer.
    #[error("no answer from {address} to {request}")]
    Rest {
        /// The member's REST server.
        address: SocketAddr,
        /// Method and path.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// No member answered `GET /cluster` with a list of members.
    #[error("no member says what the cluster looks like: {0}")]
    NoView(String),
    /// A runtime for SQL could not be made.
    #[error("cannot prepare for connections to servers")]
    Runtime(#[source] io::Error),
    /// A statement failed.
    #[error("`{statement}` failed on {server}")]
    Sql {
        /// The server.
        server: SocketAddr,
        /// The statement.
        statement: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// A statement took too long.
    #[error("`{statement}` was not answered by {server} within {seconds} s")]
    SqlSlow {
        /// The server.
        server: SocketAddr,
        /// The statement.
        statement: String,
        /// The limit.
        seconds: u64,
    },
}
