use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What `GET /cluster` says, of a pgbaton or a Patroni member.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct ClusterView {
    /// The members, by name.
    #[serde(default)]
    pub(crate) members: Vec<MemberView>,
    /// The cluster's name.
    #[serde(default)]
    pub(crate) scope: String,
    /// Maintenance mode.
    #[serde(default)]
    pub(crate) pause: bool,
    /// A switchover that waits for its time.
    pub(crate) scheduled_switchover: Option<ScheduledSwitchover>,
    /// The store did not answer the member; this is what it knew so many milliseconds ago.
    pub(crate) stale_ms: Option<u64>,
}

/// A switchover that waits for its time.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct ScheduledSwitchover {
    /// When, in ISO 8601.
    pub(crate) at: String,
    /// The leader that shall hand over.
    pub(crate) from: Option<String>,
    /// The member that shall lead.
    pub(crate) to: Option<String>,
}

/// One member in `GET /cluster`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct MemberView {
    /// Its name.
    pub(crate) name: String,
    /// `leader`, `replica` and so on.
    #[serde(default)]
    pub(crate) role: String,
    /// `running`, `streaming` and so on.
    #[serde(default)]
    pub(crate) state: String,
    /// Its REST API, ending in `/patroni`.
    #[serde(default)]
    pub(crate) api_url: String,
    /// Where its server listens.
    pub(crate) host: Option<String>,
    /// Where its server listens.
    pub(crate) port: Option<u16>,
    /// Its timeline.
    pub(crate) timeline: Option<u32>,
    /// How far it has received WAL.
    pub(crate) receive_lsn: Option<Position>,
    /// How far behind that is, in bytes.
    pub(crate) receive_lag: Option<Position>,
    /// How far it has replayed WAL.
    pub(crate) replay_lsn: Option<Position>,
    /// How far behind that is, in bytes.
    pub(crate) replay_lag: Option<Position>,
    /// A changed parameter waits for a restart.
    #[serde(default)]
    pub(crate) pending_restart: bool,
    /// Which parameters, with old and new value.
    #[serde(default)]
    pub(crate) pending_restart_reason: Map<String, Value>,
    /// Its tags.
    #[serde(default)]
    pub(crate) tags: Map<String, Value>,
    /// A restart that waits for its time.
    pub(crate) scheduled_restart: Option<Value>,
}

/// A number of bytes, a position as text, or the word `unknown`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Position {
    /// Bytes.
    Bytes(u64),
    /// A position, or `unknown`.
    Text(String),
}

impl ClusterView {
    /// The holder of the lease, if it is a member.
    pub(crate) fn leader(&self) -> Option<&MemberView> {
        self.members.iter().find(|member| member.is_leader())
    }

    /// The member of that name.
    pub(crate) fn member(&self, name: &str) -> Option<&MemberView> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl MemberView {
    /// Whether it holds the lease.
    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role.as_str(), "leader" | "standby_leader" | "master" | "primary")
    }

    /// Whether it has said that it must not lead.
    pub(crate) fn nofailover(&self) -> bool {
        self.tags.get("nofailover").is_some_and(|tag| *tag == Value::Bool(true))
            || self.tags.get("failover_priority").and_then(Value::as_i64).is_some_and(|priority| priority <= 0)
    }

    /// The address of its REST API, without a path.
    pub(crate) fn base_url(&self) -> &str {
        self.api_url.strip_suffix("/patroni").unwrap_or(&self.api_url).trim_end_matches('/')
    }

    /// The role as it stands in tables.
    pub(crate) fn role_text(&self) -> String {
        let words = self.role.split('_').map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
        });
        words.collect::<Vec<_>>().join(" ")
    }
}
