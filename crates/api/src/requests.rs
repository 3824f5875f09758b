use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::reply::{Handover, Reply};
use crate::schedule::{iso, parse_schedule};
use crate::values::{Unit, parse_bool, parse_integer, parse_version};

/// A valid `POST /switchover` or `POST /failover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverRequest {
    /// A failover with a leader is a switchover.
    pub handover: Handover,
    /// Who shall hand over; always there for a switchover.
    pub leader: Option<String>,
    /// Who shall take over; always there for a failover.
    pub candidate: Option<String>,
    /// When; none for at once.
    pub scheduled_at: Option<Timestamp>,
}

/// The cluster that a switchover is checked against, freshly read.
#[derive(Debug, Clone, Copy)]
pub struct TargetView<'a> {
    /// Who holds the leader key.
    pub leader: Option<&'a str>,
    /// Who has a member key.
    pub members: &'a BTreeSet<String>,
}

impl SwitchoverRequest {
    /// Reads a body and checks all that needs no store.
    ///
    /// # Errors
    /// The reply, by the interface's order of checks.
    pub fn parse(path: Handover, body: &Map<String, Value>, now: Timestamp, paused: bool) -> Result<Self, Reply> {
        let leader = text(body, "leader")?;
        let candidate = match text(body, "candidate")? {
            Some(candidate) => Some(candidate),
            None => text(body, "member")?,
        };
        let scheduled = text(body, "scheduled_at")?;
        match path {
            Handover::Failover if candidate.is_none() => return Err(Reply::FailoverWithoutCandidate),
            Handover::Switchover if leader.is_none() => return Err(Reply::SwitchoverWithoutLeader),
            _ => {}
        }
        let scheduled_at = match scheduled {
            Some(_) if path == Handover::Failover => return Err(Reply::FailoverScheduled),
            Some(_) if paused => return Err(Reply::SwitchoverScheduledWhilePaused),
            Some(time) => Some(parse_schedule(path.word(), &time, now)?),
            None => None,
        };
        if paused && candidate.is_none() {
            return Err(Reply::SwitchoverWhilePausedWithoutCandidate);
        }
        let handover = if leader.is_some() { Handover::Switchover } else { path };
        if leader.is_some() && leader == candidate {
            return Err(Reply::SameTargetAndSource);
        }
        Ok(Self { handover, leader, candidate, scheduled_at })
    }

    /// Checks the names against the cluster; a scheduled request is checked when it is due instead. Whether the
    /// candidates are reachable and fit is the caller's question ([`Reply::NoGoodCandidates`]).
    ///
    /// # Errors
    /// The reply.
    pub fn check(&self, view: &TargetView<'_>) -> Result<(), Reply> {
        if self.scheduled_at.is_some() {
            return Ok(());
        }
        if self.leader.is_some() && self.leader.as_deref() != view.leader {
            return Err(Reply::LeaderNameDoesNotMatch);
        }
        match &self.candidate {
            Some(candidate) if !view.members.contains(candidate) => Err(Reply::CandidateDoesNotExist),
            None if view.members.iter().all(|name| Some(name.as_str()) == view.leader) => {
                Err(Reply::NoMembersExceptLeader { handover: self.handover })
            }
            _ => Ok(()),
        }
    }
}

/// A valid `POST /restart`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRequest {
    /// When; none for at once.
    pub schedule: Option<Timestamp>,
    /// The conditions.
    pub filters: RestartFilters,
}

/// When a restart is done at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartFilters {
    /// Only in this role.
    pub role: Option<RoleFilter>,
    /// Only if the server is older than this; the text and `server_version_num`.
    pub postgres_version: Option<(String, u32)>,
    /// How long starting may take, in seconds.
    pub timeout_s: Option<u64>,
    /// Only if a parameter waits for a restart.
    pub restart_pending: bool,
}

/// A role that a restart is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleFilter {
    /// The primary.
    Primary,
    /// The first standby of a standby cluster.
    StandbyLeader,
    /// A standby.
    Replica,
}

impl RestartRequest {
    /// Reads a body; no body at all is an empty one.
    ///
    /// # Errors
    /// The reply.
    pub fn parse(body: &Map<String, Value>, now: Timestamp, paused: bool) -> Result<Self, Reply> {
        if paused && body.contains_key("schedule") {
            return Err(Reply::RestartScheduleWhilePaused);
        }
        let mut request = Self { schedule: None, filters: RestartFilters::default() };
        for (key, value) in body {
            let word = plain(value);
            let filters = &mut request.filters;
            match key.as_str() {
                "schedule" => request.schedule = Some(parse_schedule("restart", &word, now)?),
                "role" => filters.role = Some(RoleFilter::parse(&word).ok_or(Reply::RestartRoleInvalid)?),
                "postgres_version" => {
                    let number = parse_version(&word)
                        .map_err(|error| Reply::RestartVersionInvalid { message: error.to_string() })?;
                    filters.postgres_version = Some((word, number));
                }
                "timeout" => {
                    let seconds = parse_integer(&word, Unit::Seconds).filter(|seconds| *seconds > 0);
                    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                    filters.timeout_s = Some(seconds.ok_or(Reply::RestartTimeoutInvalid)?);
                }
                // Being there counts, whatever the value.
                "restart_pending" => filters.restart_pending = true,
                other => return Err(Reply::RestartFilterUnknown { key: other.to_owned() }),
            }
        }
        Ok(request)
    }

    /// The document of a scheduled restart, as the status and the member key show it.
    pub fn scheduled(&self) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        map.insert("schedule".to_owned(), iso(self.schedule?).into());
        let filters = &self.filters;
        if let Some(role) = filters.role {
            map.insert("role".to_owned(), role.as_str().into());
        }
        if let Some((version, _)) = &filters.postgres_version {
            map.insert("postgres_version".to_owned(), version.as_str().into());
        }
        if let Some(timeout_s) = filters.timeout_s {
            map.insert("timeout".to_owned(), timeout_s.into());
        }
        if filters.restart_pending {
            map.insert("restart_pending".to_owned(), true.into());
        }
        Some(map)
    }
}

impl RestartFilters {
    /// Whether the restart is done on a server of this role and version.
    pub fn allow(&self, role: RoleFilter, server_version: u32, pending_restart: bool) -> bool {
        self.role.is_none_or(|wanted| wanted == role)
            && self.postgres_version.as_ref().is_none_or(|(_, below)| server_version < *below)
            && (pending_restart || !self.restart_pending)
    }
}

impl RoleFilter {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "primary" => Some(Self::Primary),
            "standby_leader" => Some(Self::StandbyLeader),
            "replica" => Some(Self::Replica),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::StandbyLeader => "standby_leader",
            Self::Replica => "replica",
        }
    }
}

/// A `POST /reinitialize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReinitializeRequest {
    /// A running task is cancelled first.
    pub force: bool,
    /// The copy is made from the leader.
    pub from_leader: bool,
}

impl ReinitializeRequest {
    /// Reads a body; no body at all is an empty one.
    pub fn parse(body: &Map<String, Value>) -> Self {
        let flag = |key: &str| body.get(key).is_some_and(|value| parse_bool(&plain(value)) == Some(true));
        Self { force: flag("force"), from_leader: flag("from_leader") }
    }
}

/// A text of a body; null and the empty text are absent.
fn text(body: &Map<String, Value>, key: &str) -> Result<Option<String>, Reply> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(other) => Err(Reply::BadRequest { reason: format!("{key}: expected a text, found {other}") }),
    }
}

/// A single value as text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T09:00:00Z".parse().unwrap()
    }

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn switchovers_are_checked_in_order() {
        use Handover::{Failover, Switchover};
        let later = "2026-11-20T10:00:00Z";
        for (path, body, paused, code, text) in [
            (Failover, json!({}), false, 400, "Failover could be performed only to a specific candidate"),
            (
                Switchover,
                json!({"candidate": "b"}),
                false,
                400,
                "Switchover could be performed only from a specific leader",
            ),
            (Failover, json!({"candidate": "b", "scheduled_at": later}), false, 400, "Failover can't be scheduled"),
            (
                Switchover,
                json!({"leader": "a", "scheduled_at": later}),
                true,
                400,
                "Can't schedule switchover in the paused state",
            ),
            (
                Switchover,
                json!({"leader": "a", "scheduled_at": "2026-11-20T08:00:00Z"}),
                false,
                422,
                "Cannot schedule switchover in the past",
            ),
            (
                Switchover,
                json!({"leader": "a"}),
                true,
                400,
                "Switchover is possible only to a specific candidate in a paused state",
            ),
            (Failover, json!({"leader": "a", "member": "a"}), false, 400, "Switchover target and source are the same"),
            (Switchover, json!({"leader": 5}), false, 400, "leader: expected a text, found 5"),
        ] {
            let reply = SwitchoverRequest::parse(path, &map(&body), now(), paused).unwrap_err();
            assert_eq!((reply.code(), reply.text().as_str()), (code, text), "{body}");
        }
        let request = SwitchoverRequest::parse(Failover, &map(&json!({"leader": "a", "candidate": "b"})), now(), false);
        assert_eq!(request.unwrap().handover, Switchover);
    }

    #[test]
    fn names_are_checked_against_the_cluster() {
        let members: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
        let alone: BTreeSet<String> = ["a".to_owned()].into();
        let check = |body: &Value, leader, members: &BTreeSet<String>| {
            let request = SwitchoverRequest::parse(Handover::Switchover, &map(body), now(), false).unwrap();
            request.check(&TargetView { leader, members }).map_err(|reply| reply.text())
        };
        assert_eq!(check(&json!({"leader": "a"}), Some("a"), &members), Ok(()));
        for leader in [Some("b"), None] {
            assert_eq!(check(&json!({"leader": "a"}), leader, &members), Err("leader name does not match".to_owned()));
        }
        assert_eq!(
            check(&json!({"leader": "a", "candidate": "c"}), Some("a"), &members),
            Err("candidate does not exists".to_owned())
        );
        assert_eq!(
            check(&json!({"leader": "a"}), Some("a"), &alone),
            Err("switchover is not possible: cluster does not have members except leader".to_owned())
        );
        let later = json!({"leader": "x", "candidate": "y", "scheduled_at": "2026-11-20T10:00:00Z"});
        assert_eq!(check(&later, None, &alone), Ok(()));
    }

    #[test]
    fn restarts_have_conditions() {
        for (body, paused, code, text) in [
            (json!({"schedule": "x"}), true, 500, "Can't schedule restart in the paused state"),
            (
                json!({"role": "master"}),
                false,
                400,
                "PostgreSQL role should be either primary, standby_leader, or replica",
            ),
            (json!({"timeout": 0}), false, 400, "Timeout should be a positive number of seconds"),
            (json!({"timeout": "x"}), false, 400, "Timeout should be a positive number of seconds"),
            (json!({"foo": 1}), false, 400, "Unknown filter for the scheduled restart: foo"),
            (json!({"postgres_version": "15.x"}), false, 400, "Invalid PostgreSQL version: 15.x"),
            (
                json!({"schedule": "2026-11-20T10:00:00"}),
                false,
                400,
                "Timezone information is mandatory for the scheduled restart",
            ),
        ] {
            let reply = RestartRequest::parse(&map(&body), now(), paused).unwrap_err();
            assert_eq!((reply.code(), reply.text().as_str()), (code, text), "{body}");
        }
        let body = json!({"schedule": "2026-11-20T10:00:00Z", "role": "replica", "postgres_version": "15.2",
            "timeout": "1min", "restart_pending": false});
        let request = RestartRequest::parse(&map(&body), now(), false).unwrap();
        assert_eq!(
            Value::Object(request.scheduled().unwrap()),
            json!({"schedule": "2026-11-20T10:00:00+00:00", "role": "replica", "postgres_version": "15.2",
                "timeout": 60, "restart_pending": true})
        );
        let filters = &request.filters;
        assert!(filters.allow(RoleFilter::Replica, 150_001, true));
        assert!(!filters.allow(RoleFilter::Primary, 150_001, true));
        assert!(!filters.allow(RoleFilter::Replica, 150_002, true));
        assert!(!filters.allow(RoleFilter::Replica, 150_001, false));
        assert!(RestartFilters::default().allow(RoleFilter::Primary, 0, false));
    }

    #[test]
    fn reinitialize_reads_lenient_flags() {
        let parse = |body: Value| ReinitializeRequest::parse(&map(&body));
        assert_eq!(parse(json!({})), ReinitializeRequest::default());
        let both = ReinitializeRequest { force: true, from_leader: true };
        assert_eq!(parse(json!({"force": true, "from_leader": "on"})), both);
    }
}
