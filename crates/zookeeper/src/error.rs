use std::fmt;
use std::io;
use std::time::Duration;

/// What a server says no with (`KeeperException.Code` in `ZooKeeper`'s source).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// There is no such node, or not its parent.
    NoNode,
    /// This client may not: the node's list of rights does not name it.
    NoAuth,
    /// The node has another version by now.
    BadVersion,
    /// The parent is ephemeral and can have no nodes below it.
    NoChildrenForEphemerals,
    /// There is such a node.
    NodeExists,
    /// The session is over.
    SessionExpired,
    /// The rights make no sense, such as those of a user that nobody has logged in as.
    InvalidAcl,
    /// The credentials are not taken.
    AuthFailed,
    /// The session goes on at another server.
    SessionMoved,
    /// The server takes no changes: it has no majority.
    ReadOnly,
    /// The parent may have no more below it.
    QuotaExceeded,
    /// Any other.
    Other(i32),
}

impl Code {
    pub(crate) fn of(number: i32) -> Self {
        match number {
            -101 => Self::NoNode,
            -102 => Self::NoAuth,
            -103 => Self::BadVersion,
            -108 => Self::NoChildrenForEphemerals,
            -110 => Self::NodeExists,
            -112 => Self::SessionExpired,
            -114 => Self::InvalidAcl,
            -115 => Self::AuthFailed,
            -118 => Self::SessionMoved,
            -119 => Self::ReadOnly,
            -125 => Self::QuotaExceeded,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoNode => "there is no such node",
            Self::NoAuth => "this user may not",
            Self::BadVersion => "the node was changed meanwhile",
            Self::NoChildrenForEphemerals => "nothing can be below an ephemeral node",
            Self::NodeExists => "there is such a node",
            Self::SessionExpired => "the session is over",
            Self::InvalidAcl => "the rights are not valid",
            Self::AuthFailed => "the credentials are not taken",
            Self::SessionMoved => "the session goes on at another server",
            Self::ReadOnly => "the server takes no changes at the moment",
            Self::QuotaExceeded => "the quota is used up",
            Self::Other(number) => return write!(formatter, "error {number}"),
        })
    }
}

/// Why a request was not answered as wished.
#[derive(Debug, thiserror::Error)]
pub enum ZooKeeperError {
    /// No server can be reached. Nothing was changed.
    #[error("no connection to {server}")]
    Connect {
        /// The server that was tried last.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke. Whether a change was made is not known.
    #[error("the connection to {server} broke")]
    Broken {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time. Whether a change was made is not known.
    #[error("{server} does not answer within {} ms", .within.as_millis())]
    Slow {
        /// The server that was asked last.
        server: String,
        /// The deadline.
        within: Duration,
    },
    /// The session is over, and with it its ephemeral nodes; the next request begins another one.
    #[error("the session is over")]
    Expired,
    /// The server says no.
    #[error("{what} {path}: {code}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The node.
        path: String,
        /// The server's reason.
        code: Code,
    },
    /// What the server says is not of the protocol.
    #[error("{server} does not speak ZooKeeper's protocol: {what}")]
    Protocol {
        /// The server.
        server: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl ZooKeeperError {
    /// The server's no, if it was one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}
