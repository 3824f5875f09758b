use std::fmt;

use openraft::BasicNode;
use pgbaton_store::{Command, Refusal, Response};
use serde::{Deserialize, Serialize};

/// A command as an entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request(pub(crate) Command);

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Command::Txn(_) => "transaction",
            Command::LeaseGrant { .. } => "lease grant",
            Command::LeaseRevoke { .. } => "lease revoke",
            Command::LeaseExpire { .. } => "lease expiry",
            Command::Kv(_) => "transaction of etcd's protocol",
            Command::Compact { .. } => "compaction",
        };
        formatter.write_str(kind)
    }
}

/// What applying an entry gave; `None` for entries without a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub(crate) Option<Result<Response, Refusal>>);

openraft::declare_raft_types!(
    /// openraft with our command and answer; nodes are random numbers with a host and port.
    pub(crate) TypeConfig:
        D = Request,
        R = Answer,
        NodeId = u64,
        Node = BasicNode,
);

/// The type aliases that the rest of this crate uses.
pub(crate) mod alias {
    use openraft::type_config::alias as of;

    use super::TypeConfig;

    pub(crate) type Entry = of::EntryOf<TypeConfig>;
    pub(crate) type Vote = of::VoteOf<TypeConfig>;
    pub(crate) type LogIdT = of::LogIdOf<TypeConfig>;
    pub(crate) type Membership = of::StoredMembershipOf<TypeConfig>;
    pub(crate) type SnapshotMeta = of::SnapshotMetaOf<TypeConfig>;
    pub(crate) type Snapshot = of::SnapshotOf<TypeConfig, Vec<u8>>;
}
