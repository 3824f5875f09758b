use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use pgbaton_types::Lsn;

use crate::layout::{FailoverRecord, MemberRecord};
use crate::schedule::iso;

/// What the store holds about a cluster, freshly read.
#[derive(Debug, Clone)]
pub struct ClusterView<'a> {
    /// The cluster's name.
    pub scope: &'a str,
    /// Who holds the leader key.
    pub leader: Option<&'a str>,
    /// The member records.
    pub members: &'a BTreeMap<String, MemberRecord>,
    /// The leader's last published position.
    pub optime: Lsn,
    /// Maintenance mode.
    pub paused: bool,
    /// What is asked for.
    pub failover: Option<&'a FailoverRecord>,
}

/// What `GET /cluster` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterDocument {
    /// The members by name.
    pub members: Vec<ClusterMember>,
    /// Maintenance mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    /// A switchover that waits for its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_switchover: Option<ScheduledSwitchover>,
    /// The cluster's name.
    pub scope: String,
}

/// A switchover that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledSwitchover {
    /// When, in ISO 8601.
    pub at: String,
    /// Who hands over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// One member of `GET /cluster`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// Its name.
    pub name: String,
    /// `leader` or `replica`.
    pub role: String,
    /// The state of its server, for a standby the replication state if it has one.
    pub state: String,
    /// Its REST API.
    pub api_url: String,
    /// The host of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// A parameter waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Which parameters wait.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub pending_restart_reason: Map<String, Value>,
    /// A restart that is scheduled.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub scheduled_restart: Map<String, Value>,
    /// The published tags.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// How far it has received; not for the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<OrUnknown<String>>,
    /// Bytes from there to the leader's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lag: Option<OrUnknown<u64>>,
    /// How far it has replayed; not for the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<OrUnknown<String>>,
    /// Bytes from there to the leader's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lag: Option<OrUnknown<u64>>,
    /// The higher one of both; not for the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<OrUnknown<String>>,
    /// Bytes from there to the leader's position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<OrUnknown<u64>>,
}

/// A value, or the text `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrUnknown<T> {
    /// The value.
    Known(T),
    /// Nobody published it.
    Unknown,
}

const UNKNOWN: &str = "unknown";

impl<T: Serialize> Serialize for OrUnknown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(value) => value.serialize(serializer),
            Self::Unknown => serializer.serialize_str(UNKNOWN),
        }
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for OrUnknown<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == UNKNOWN => Ok(Self::Unknown),
            value => serde_json::from_value(value).map(Self::Known).map_err(serde::de::Error::custom),
        }
    }
}

impl ClusterDocument {
    /// The document of a view.
    pub fn of(view: &ClusterView<'_>) -> Self {
        let scheduled = view.failover.and_then(|failover| {
            Some(ScheduledSwitchover {
                at: iso(failover.scheduled_at?),
                from: failover.leader.clone(),
                to: failover.member.clone(),
            })
        });
        Self {
            members: view.members.iter().map(|(name, record)| ClusterMember::of(name, record, view)).collect(),
            pause: view.paused,
            scheduled_switchover: scheduled,
            scope: view.scope.to_owned(),
        }
    }

    /// The member that leads.
    pub fn leader(&self) -> Option<&ClusterMember> {
        self.members.iter().find(|member| member.role == "leader")
    }
}

impl ClusterMember {
    fn of(name: &str, record: &MemberRecord, view: &ClusterView<'_>) -> Self {
        let leads = view.leader == Some(name);
        let streaming = record.replication_state.as_ref().filter(|state| !leads && !state.is_empty());
        let address = record.host_port();
        let position = |at: Option<Lsn>| {
            if leads {
                return (None, None);
            }
            match at.filter(|at| at.is_valid()) {
                Some(at) => {
                    (Some(OrUnknown::Known(at.to_string())), Some(OrUnknown::Known(view.optime.bytes_ahead_of(at))))
                }
                None => (Some(OrUnknown::Unknown), Some(OrUnknown::Unknown)),
            }
        };
        let (receive_lsn, receive_lag) = position(record.receive_lsn);
        let (replay_lsn, replay_lag) = position(record.replay_lsn);
        let (lsn, lag) = position(record.xlog_location);
        Self {
            name: name.to_owned(),
            role: if leads { "leader" } else { "replica" }.to_owned(),
            state: streaming.unwrap_or(&record.state).clone(),
            api_url: record.api_url.clone(),
            port: address.as_ref().map(|(_, port)| *port),
            host: address.map(|(host, _)| host),
            timeline: record.timeline.map(|timeline| timeline.0),
            pending_restart: record.pending_restart,
            pending_restart_reason: record.pending_restart_reason.clone(),
            scheduled_restart: record.scheduled_restart.clone(),
            tags: record.tags.clone(),
            receive_lsn,
            receive_lag,
            replay_lsn,
            replay_lag,
            lsn,
            lag,
        }
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::TimelineId;

    use super::*;
    use crate::to_loose;

    #[test]
    fn a_cluster_of_three() {
        let record = |state: &str, at: Option<u64>| MemberRecord {
            conn_url: "postgres://10.0.0.1:5432/postgres".to_owned(),
            api_url: "http://10.0.0.1:8008/patroni".to_owned(),
            state: state.to_owned(),
            timeline: Some(TimelineId(1)),
            xlog_location: at.map(Lsn),
            receive_lsn: at.map(Lsn),
            replay_lsn: at.map(Lsn),
            ..MemberRecord::default()
        };
        let mut standby = record("running", Some(0x300_0000));
        standby.replication_state = Some("streaming".to_owned());
        let members = BTreeMap::from([
            ("a".to_owned(), record("running", Some(0x300_0148))),
            ("b".to_owned(), standby),
            ("c".to_owned(), record("starting", None)),
        ]);
        let failover = FailoverRecord::read(r#"{"leader":"a","scheduled_at":"2026-11-20T10:00:00Z"}"#);
        let document = ClusterDocument::of(&ClusterView {
            scope: "demo",
            leader: Some("a"),
            members: &members,
            optime: Lsn(0x300_0148),
            paused: true,
            failover: failover.as_ref(),
        });
        let text = to_loose(&document).unwrap();
        let common = r#""api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1", "port": 5432, "timeline": 1"#;
        let b = r#""receive_lsn": "0/3000000", "receive_lag": 328, "replay_lsn": "0/3000000", "replay_lag": 328, "lsn": "0/3000000", "lag": 328"#;
        let c = r#""receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown", "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown""#;
        assert_eq!(
            text,
            format!(
                "{{\"members\": [{{\"name\": \"a\", \"role\": \"leader\", \"state\": \"running\", {common}}}, \
                 {{\"name\": \"b\", \"role\": \"replica\", \"state\": \"streaming\", {common}, {b}}}, \
                 {{\"name\": \"c\", \"role\": \"replica\", \"state\": \"starting\", {common}, {c}}}], \
                 \"pause\": true, \"scheduled_switchover\": {{\"at\": \"2026-11-20T10:00:00+00:00\", \"from\": \"a\"}}, \
                 \"scope\": \"demo\"}}"
            )
        );
        assert_eq!(serde_json::from_str::<ClusterDocument>(&text).unwrap(), document);
        assert_eq!(document.leader().map(|leader| leader.name.as_str()), Some("a"));
    }

    #[test]
    fn a_standby_ahead_of_the_published_position_lags_by_nothing() {
        let record = MemberRecord { receive_lsn: Some(Lsn(500)), ..MemberRecord::default() };
        let members = BTreeMap::from([("b".to_owned(), record)]);
        let view = ClusterView {
            scope: "s",
            leader: None,
            members: &members,
            optime: Lsn(400),
            paused: false,
            failover: None,
        };
        let document = ClusterDocument::of(&view);
        assert_eq!(document.members[0].receive_lag, Some(OrUnknown::Known(0)));
        assert_eq!(document.members[0].lag, Some(OrUnknown::Unknown));
    }
}
