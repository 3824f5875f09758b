use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use pgbaton_types::Lsn;

use crate::state::Role;

/// What `GET /patroni` and the health checks answer. The fields stand in the order of the interface; absent ones are
/// left out. Read leniently, because it is also what peers answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// The state of the server, or `unknown` when it did not answer.
    pub state: String,
    /// When the postmaster started, as the server writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    /// The role.
    pub role: Role,
    /// `server_version_num`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// Positions; absent when the server did not answer, which disqualifies the member as a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog: Option<Xlog>,
    /// The timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// `streaming` or `in archive recovery`, for a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// Who streams from this server; left out when nobody does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replication: Vec<ReplicationRow>,
    /// Maintenance mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    /// No leader is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_unlocked: bool,
    /// When the store was read last, in whole seconds since 1970; 0 if never.
    #[serde(default)]
    pub dcs_last_seen: i64,
    /// The published tags.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// The identity of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_system_identifier: Option<String>,
    /// A parameter waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Which parameters wait, with old and new value.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub pending_restart_reason: Map<String, Value>,
    /// Who answers.
    pub patroni: Program,
    /// A restart that is scheduled, with its conditions.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub scheduled_restart: Map<String, Value>,
}

/// The positions of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Xlog {
    /// Of a primary.
    Primary {
        /// How far its WAL is flushed.
        location: Lsn,
    },
    /// Of a standby.
    Standby {
        /// How far WAL was received.
        received_location: Lsn,
        /// How far WAL was replayed.
        replayed_location: Lsn,
        /// The time of the last transaction replayed, as the server writes it.
        replayed_timestamp: Option<String>,
        /// Replay is paused.
        paused: bool,
    },
}

/// One receiver of WAL, from `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRow {
    /// The role that it connected as.
    pub usename: String,
    /// Its `application_name`, for a member its name.
    pub application_name: String,
    /// Its address; none over a socket.
    pub client_addr: Option<String>,
    /// The state of its sender.
    pub state: String,
    /// `async`, `sync`, `quorum` or `potential`.
    pub sync_state: String,
    /// Its priority as a synchronous standby; 0 for none.
    pub sync_priority: i32,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The Patroni version whose interface this is.
    pub version: String,
    /// The cluster.
    pub scope: String,
    /// The member.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_loose;

    #[test]
    fn fields_stand_in_order() {
        let document = StatusDocument {
            state: "running".to_owned(),
            postmaster_start_time: Some("2026-11-20 09:16:05.491248+00:00".to_owned()),
            role: Role::Replica,
            server_version: Some(150_018),
            xlog: Some(Xlog::Standby {
                received_location: Lsn(5),
                replayed_location: Lsn(4),
                replayed_timestamp: None,
                paused: false,
            }),
            timeline: Some(2),
            replication_state: Some("streaming".to_owned()),
            replication: Vec::new(),
            pause: false,
            cluster_unlocked: true,
            dcs_last_seen: 7,
            tags: Map::new(),
            database_system_identifier: Some("73".to_owned()),
            pending_restart: false,
            pending_restart_reason: Map::new(),
            patroni: Program { version: "4.1.4".to_owned(), scope: "s".to_owned(), name: "n".to_owned() },
            scheduled_restart: Map::new(),
        };
        let text = to_loose(&document).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"state": "running", "postmaster_start_time": "2026-11-20 09:16:05.491248+00:00", "#,
                r#""role": "replica", "server_version": 150018, "xlog": {"received_location": 5, "#,
                r#""replayed_location": 4, "replayed_timestamp": null, "paused": false}, "timeline": 2, "#,
                r#""replication_state": "streaming", "cluster_unlocked": true, "dcs_last_seen": 7, "#,
                r#""database_system_identifier": "73", "#,
                r#""patroni": {"version": "4.1.4", "scope": "s", "name": "n"}}"#
            )
        );
        assert_eq!(serde_json::from_str::<StatusDocument>(&text).unwrap(), document);
    }
}
