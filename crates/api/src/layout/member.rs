use serde::Serialize;
use serde_json::{Map, Value};

use pgbaton_types::{Lsn, TimelineId};

use super::PausingRecord;

/// A member's record: the value of `members/<name>`. Written by that member alone, with every field as the interface
/// has it; absent fields are left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct MemberRecord {
    /// Where its server is reached: `postgres://host:port/postgres`.
    pub conn_url: String,
    /// Where its REST API is reached: `http://host:port/patroni`.
    pub api_url: String,
    /// The state of its server; a text, because newer members may know states that we do not.
    pub state: String,
    /// The role of its server.
    pub role: String,
    /// The Patroni version whose interface it has.
    pub version: String,
    /// Another address for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// `false` on a leader that has not completed a checkpoint since its promotion; absent once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    /// The published tags.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// `true` when a parameter waits for a restart.
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    /// Which parameters wait, with old and new value.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub pending_restart_reason: Map<String, Value>,
    /// A primary's flush position, a standby's higher one of received and replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    /// How far a standby has replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    /// How far a standby has received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`, for a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// Its timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// A restart that is scheduled, with its conditions.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub scheduled_restart: Map<String, Value>,
    /// `true` while this member acts as paused.
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    /// The holder asks poolers to hold their clients. Ours; Patroni ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pausing: Option<PausingRecord>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl MemberRecord {
    /// Reads a record. What is missing or has another type counts as absent; a text that is no JSON object at all
    /// gives an empty record, except the legacy form, a `postgres` URL with the API's URL as `application_name`.
    pub fn read(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Self::from_map(&map),
            _ if text.starts_with("postgres") => Self::from_url(text),
            _ => Self::default(),
        }
    }

    fn from_map(map: &Map<String, Value>) -> Self {
        let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let object = |key: &str| map.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let flag = |key: &str| map.get(key).and_then(Value::as_bool);
        let position = |key: &str| number(map.get(key)).map(Lsn);
        let role = text("role").unwrap_or_default();
        Self {
            conn_url: text("conn_url").or_else(|| from_kwargs(&object("conn_kwargs"))).unwrap_or_default(),
            api_url: text("api_url").unwrap_or_default(),
            state: text("state").unwrap_or_default(),
            role: if role == "master" { "primary".to_owned() } else { role },
            version: text("version").unwrap_or_default(),
            proxy_url: text("proxy_url"),
            checkpoint_after_promote: flag("checkpoint_after_promote"),
            tags: object("tags"),
            pending_restart: flag("pending_restart").unwrap_or(false),
            pending_restart_reason: object("pending_restart_reason"),
            xlog_location: position("xlog_location"),
            replay_lsn: position("replay_lsn"),
            receive_lsn: position("receive_lsn"),
            replication_state: text("replication_state"),
            timeline: number(map.get("timeline"))
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .map(TimelineId),
            scheduled_restart: object("scheduled_restart"),
            pause: flag("pause").unwrap_or(false),
            pausing: map.get("pausing").and_then(|value| serde_json::from_value(value.clone()).ok()),
        }
    }

    fn from_url(text: &str) -> Self {
        let (conn_url, query) = text.split_once('?').unwrap_or((text, ""));
        let api_url = query.split('&').find_map(|pair| pair.strip_prefix("application_name=")).unwrap_or_default();
        Self { conn_url: conn_url.to_owned(), api_url: api_url.to_owned(), ..Self::default() }
    }

    /// The host and port of the server, from `conn_url`; the port defaults to PostgreSQL's.
    pub fn host_port(&self) -> Option<(String, u16)> {
        let rest = self.conn_url.split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?;
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (address, 5432),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| (host.to_owned(), port))
    }

    /// The address of the REST API without its path: `http://host:port`.
    pub fn api_base(&self) -> Option<&str> {
        let authority = self.api_url.find("://")? + 3;
        let end = self.api_url[authority..].find('/').map_or(self.api_url.len(), |at| authority + at);
        (end > authority).then(|| &self.api_url[..end])
    }
}

/// A number, also one written as text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn from_kwargs(map: &Map<String, Value>) -> Option<String> {
    let host = map.get("host")?.as_str()?;
    let port = number(map.get("port")).unwrap_or(5432);
    Some(format!("postgres://{host}:{port}/postgres"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::to_compact;

    fn member() -> MemberRecord {
        MemberRecord {
            conn_url: "postgres://10.0.0.1:5432/postgres".to_owned(),
            api_url: "http://10.0.0.1:8008/patroni".to_owned(),
            state: "running".to_owned(),
            role: "replica".to_owned(),
            version: "4.1.4".to_owned(),
            xlog_location: Some(Lsn(50_331_968)),
            replay_lsn: Some(Lsn(50_331_968)),
            receive_lsn: Some(Lsn(50_331_968)),
            replication_state: Some("streaming".to_owned()),
            timeline: Some(TimelineId(2)),
            ..MemberRecord::default()
        }
    }

    #[test]
    fn a_record_is_written_exactly_and_read_back() {
        let text = to_compact(&member()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","#,
                r#""state":"running","role":"replica","version":"4.1.4","xlog_location":50331968,"#,
                r#""replay_lsn":50331968,"receive_lsn":50331968,"replication_state":"streaming","timeline":2}"#
            )
        );
        assert_eq!(MemberRecord::read(&text), member());
    }

    #[test]
    fn foreign_records_are_tolerated() {
        for text in ["", "nonsense", "[1]", "5", "null"] {
            assert_eq!(MemberRecord::read(text), MemberRecord::default(), "{text}");
        }
        let odd = json!({"role": "master", "timeline": "3", "xlog_location": "77", "state": 5, "tags": [], "new": {},
            "conn_kwargs": {"host": "h", "port": 5}, "checkpoint_after_promote": false, "pause": true});
        let record = MemberRecord::read(&odd.to_string());
        assert_eq!(
            (record.role.as_str(), record.timeline, record.xlog_location),
            ("primary", Some(TimelineId(3)), Some(Lsn(77)))
        );
        assert_eq!((record.state.as_str(), record.checkpoint_after_promote, record.pause), ("", Some(false), true));
        assert_eq!(record.host_port(), Some(("h".to_owned(), 5)));
        let legacy = MemberRecord::read("postgres://u:p@h:6/postgres?application_name=http://h:8008/patroni");
        assert_eq!((legacy.host_port(), legacy.api_base()), (Some(("h".to_owned(), 6)), Some("http://h:8008")));
    }

    #[test]
    fn addresses_of_all_kinds() {
        for (url, expected) in [
            ("postgres://[::1]:7/postgres", Some(("::1", 7))),
            ("postgres://[::1]/postgres", Some(("::1", 5432))),
            ("postgres://h", Some(("h", 5432))),
            ("postgres://h:x/", None),
            ("h:5", None),
        ] {
            let record = MemberRecord { conn_url: url.to_owned(), ..MemberRecord::default() };
            assert_eq!(record.host_port().as_ref().map(|(h, p)| (h.as_str(), *p)), expected, "{url}");
        }
    }
}
