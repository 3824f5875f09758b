use std::fmt;

use pgbaton_types::MemberName;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// What has happened, in repmgr's words, so that scripts made for it understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventName {
    /// The first primary that was ever seen.
    PrimaryRegister,
    /// A standby that was never seen before.
    StandbyRegister,
    /// Another member has become the primary, for whatever reason.
    StandbyPromote,
    /// That was a switchover.
    StandbySwitchover,
    /// That was a failover.
    RepmgrdFailoverPromote,
    /// A standby follows the primary of a switchover.
    StandbyFollow,
    /// A standby follows the primary of a failover.
    RepmgrdFailoverFollow,
    /// A former primary is a standby of the present one.
    NodeRejoin,
    /// The primary takes no writes any more, and this is no switchover.
    RepmgrdLocalDisconnect,
    /// The same primary takes writes again.
    RepmgrdLocalReconnect,
    /// A standby does not run any more.
    ChildNodeDisconnect,
    /// It runs again.
    ChildNodeReconnect,
}

impl EventName {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::PrimaryRegister,
        Self::StandbyRegister,
        Self::StandbyPromote,
        Self::StandbySwitchover,
        Self::RepmgrdFailoverPromote,
        Self::StandbyFollow,
        Self::RepmgrdFailoverFollow,
        Self::NodeRejoin,
        Self::RepmgrdLocalDisconnect,
        Self::RepmgrdLocalReconnect,
        Self::ChildNodeDisconnect,
        Self::ChildNodeReconnect,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrimaryRegister => "primary_register",
            Self::StandbyRegister => "standby_register",
            Self::StandbyPromote => "standby_promote",
            Self::StandbySwitchover => "standby_switchover",
            Self::RepmgrdFailoverPromote => "repmgrd_failover_promote",
            Self::StandbyFollow => "standby_follow",
            Self::RepmgrdFailoverFollow => "repmgrd_failover_follow",
            Self::NodeRejoin => "node_rejoin",
            Self::RepmgrdLocalDisconnect => "repmgrd_local_disconnect",
            Self::RepmgrdLocalReconnect => "repmgrd_local_reconnect",
            Self::ChildNodeDisconnect => "child_node_disconnect",
            Self::ChildNodeReconnect => "child_node_reconnect",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Something that has happened, as it is delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The version of this document: 1.
    pub version: u32,
    /// Whose numbers the following is one of: another text after an outbox was lost.
    pub source: String,
    /// Its number: each event has the next one, and keeps it however often it is delivered.
    pub sequence: u64,
    /// What has happened.
    pub event: EventName,
    /// When it was seen, as RFC 3339 has it, in UTC.
    pub at: String,
    /// To whom.
    pub member: MemberName,
    /// In a promotion, who was the primary before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<MemberName>,
    /// repmgr's `%n`: the tag `node_id` of the member, otherwise its name; of a standby that comes or goes, those of the primary.
    pub node: String,
    /// repmgr's `%p`: the same of the primary; in a promotion of the former one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_node: Option<String>,
    /// One line in English, without characters that mean something to a shell.
    pub details: String,
    /// How the cluster was then.
    pub record: Record,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_they_are_called() {
        for name in EventName::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
    }
}
