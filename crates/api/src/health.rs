use serde_json::{Map, Value};

use pgbaton_types::Lsn;

use crate::state::{PostgresState, Role};
use crate::values::{Unit, parse_integer};

/// What a health check is decided by, at the moment of the request.
#[derive(Debug, Clone)]
pub struct HealthInput<'a> {
    /// The path of the request.
    pub path: &'a str,
    /// The query of the request, without the question mark.
    pub query: &'a str,
    /// This member holds the leader key, and not longer than ttl ago it was renewed.
    pub holds_lock: bool,
    /// The cached view of the store is younger than ttl.
    pub view_fresh: bool,
    /// Maintenance mode.
    pub paused: bool,
    /// The role of the status document.
    pub role: Role,
    /// The state of the status document; none for `unknown`.
    pub state: Option<PostgresState>,
    /// The replication state of the status document.
    pub replication_state: Option<&'a str>,
    /// The published tags.
    pub tags: &'a Map<String, Value>,
    /// The last position that the leader published; zero if unknown.
    pub leader_position: Lsn,
    /// What the WAL receiver says is the end of the sender's WAL; zero if unknown.
    pub sender_position: Lsn,
    /// How far WAL was replayed.
    pub replayed: Lsn,
}

const OK: u16 = 200;
const UNAVAILABLE: u16 = 503;

/// Paths that the health checks answer by name; any other path is answered with 503.
const PATHS: &[&str] = &[
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/health",
    "/sync",
    "/synchronous",
    "/async",
    "/asynchronous",
    "/read-only-sync",
    "/read-only-synchronous",
    "/quorum",
    "/read-only-quorum",
];

/// Whether a path is one of the health checks.
pub fn is_health_path(path: &str) -> bool {
    PATHS.contains(&path)
}

/// The status code of a health check. The path decides by what it contains, the first match wins, so that longer
/// paths of load balancers work, too. There are no standby clusters and no synchronous standbys here: their paths
/// answer 503, or what remains of them.
pub fn health_code(input: &HealthInput<'_>) -> u16 {
    let path = if input.path == "/" { "/primary" } else { input.path };
    let has = |word: &str| path.contains(word);
    let leads = leads(input);
    let standby_leads = !input.view_fresh && input.paused && input.role == Role::StandbyLeader;
    let (healthy, honours_tags) = if has("standby_leader") || has("standby-leader") {
        (standby_leads, false)
    } else if has("leader") {
        (leads || standby_leads, false)
    } else if has("master") || has("primary") || has("read-write") {
        (leads, false)
    } else if has("replica") {
        (is_good_replica(input), true)
    } else if has("read-only") && !has("sync") && !has("quorum") {
        (leads || standby_leads || is_good_replica(input), true)
    } else if has("health") {
        (input.state == Some(PostgresState::Running), true)
    } else if input.view_fresh {
        match path {
            "/async" | "/asynchronous" => (is_good_replica(input), true),
            "/read-only-quorum" | "/read-only-sync" | "/read-only-synchronous" => (leads || standby_leads, true),
            _ => (false, false),
        }
    } else {
        (false, false)
    };
    if healthy && (!honours_tags || tags_match(input)) { OK } else { UNAVAILABLE }
}

/// Whether writes belong here. With the key in hand that is so even while PostgreSQL is still being promoted.
fn leads(input: &HealthInput<'_>) -> bool {
    if !input.view_fresh && input.paused { input.role == Role::Primary } else { input.holds_lock }
}

fn is_good_replica(input: &HealthInput<'_>) -> bool {
    let balanced = !input.tags.get("noloadbalance").is_some_and(|tag| *tag != Value::Bool(false));
    let wanted = parameter(input.query, "replication_state");
    balanced
        && input.role == Role::Replica
        && input.state == Some(PostgresState::Running)
        && wanted.is_none_or(|wanted| input.replication_state == Some(wanted.as_str()))
        && !is_lagging(input)
}

fn is_lagging(input: &HealthInput<'_>) -> bool {
    let limit = parameter(input.query, "lag").and_then(|text| parse_integer(&text, Unit::Bytes));
    let Some(limit) = limit else { return false };
    let allowed = u64::try_from(limit).unwrap_or(0);
    let newest = input.leader_position.max(input.sender_position);
    newest.is_valid() && newest.0 > input.replayed.0.saturating_add(allowed)
}

/// Whether every `tag_<key>=<value>` of the query is the member's.
fn tags_match(input: &HealthInput<'_>) -> bool {
    let mut seen = Vec::new();
    parameters(input.query).filter_map(|(key, value)| Some((key.strip_prefix("tag_")?.to_owned(), value))).all(
        |(key, value)| {
            // The first value of a parameter counts.
            if seen.contains(&key) {
                return true;
            }
            let matches = input.tags.get(&key).is_some_and(|tag| match tag {
                Value::String(text) => *text == value,
                other => other.to_string().to_lowercase() == value,
            });
            seen.push(key);
            matches
        },
    )
}

/// What readiness is decided by.
#[derive(Debug, Clone, Copy)]
pub struct ReadinessInput<'a> {
    /// What a health check knows, with the query of this request.
    pub health: &'a HealthInput<'a>,
    /// How far WAL was received, for `mode=write`.
    pub received: Lsn,
    /// The limit when the query has none, in bytes.
    pub maximum_lag_on_failover: u64,
}

/// The status code of `/readiness`: this member leads, or it streams and is near enough.
pub fn readiness_code(input: &ReadinessInput<'_>) -> u16 {
    let health = input.health;
    let streams = health.state == Some(PostgresState::Running) && health.replication_state == Some("streaming");
    let newest = health.leader_position.max(health.sender_position);
    let limit = parameter(health.query, "lag")
        .and_then(|text| parse_integer(&text, Unit::Bytes))
        .and_then(|limit| u64::try_from(limit).ok())
        .unwrap_or(input.maximum_lag_on_failover);
    let at = match parameter(health.query, "mode").as_deref() {
        Some("write") => input.received,
        _ => health.replayed,
    };
    let near = newest.is_valid() && newest.bytes_ahead_of(at) <= limit;
    if health.holds_lock || (streams && near) { OK } else { UNAVAILABLE }
}

/// The status code of `/liveness`: paused, or the loop is not overdue by more than ttl on a primary, twice ttl on
/// another member. `overdue_ms` is how long ago the loop should have run, `ttl_ms` the lease's lifetime.
pub fn liveness_code(paused: bool, is_primary: bool, overdue_ms: u64, ttl_ms: u64) -> u16 {
    let allowed = if is_primary { ttl_ms } else { ttl_ms.saturating_mul(2) };
    if paused || overdue_ms < allowed { OK } else { UNAVAILABLE }
}

/// The first value of a query parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query).find(|(key, _)| key == name).map(|(_, value)| value)
}

fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .filter(|(_, value)| !value.is_empty())
}

/// A text of a query with `%XX` and `+` resolved; bytes that are no UTF-8 are replaced.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        at += if hex.is_some() { 3 } else { 1 };
        plain.push(hex.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests;
