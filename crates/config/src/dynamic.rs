use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Findings, Severity};
use crate::document::{Kind, Node};
use crate::merge::merge_patch;
use crate::section::{Section, ToolOption};
use crate::timing::Timing;
use crate::{effective, keys, promises};

/// The configuration that all members share: the store's `config` key. The document is kept as it is, with keys that
/// nobody here knows; the rest is what the known keys mean.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DynamicConfig {
    /// The document itself, without nulls.
    #[serde(flatten)]
    pub document: Map<String, Value>,
    /// The keys of the high-availability logic.
    #[serde(skip)]
    pub cluster: ClusterSettings,
    /// The `postgresql` section.
    #[serde(skip)]
    pub postgresql: PostgresqlSettings,
}

/// What the cluster does, the same on all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClusterSettings {
    /// `ttl`, `loop_wait`, `retry_timeout`.
    pub timing: Timing,
    /// Bytes by which a candidate may lag behind the last published position of the primary; more excludes it.
    pub maximum_lag_on_failover: u64,
    /// How long a crashed primary may take to start again before it hands over; zero hands over at once.
    pub primary_start_timeout: Duration,
    /// How long stopping a primary may take; zero is no limit. Without synchronous replication it has no effect.
    pub primary_stop_timeout: Duration,
    /// Whether a candidate's timeline must not be behind the cluster's.
    pub check_timeline: bool,
    /// Maintenance mode.
    pub pause: bool,
    /// How many rows of history are kept; zero keeps all.
    pub max_timelines_history: u32,
    /// How long poolers may take to hold their clients before a switchover; zero: they are not asked.
    pub switchover_pause_within: Duration,
    /// Whether a switchover is called off when one of them does not.
    pub switchover_cancel_without_pause: bool,
    /// How long the slot of a member that is gone is kept; zero: not at all.
    pub member_slots_ttl: Duration,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            timing: Timing::DEFAULT,
            maximum_lag_on_failover: 1_048_576,
            primary_start_timeout: Duration::from_mins(5),
            primary_stop_timeout: Duration::ZERO,
            check_timeline: false,
            pause: false,
            max_timelines_history: 0,
            switchover_pause_within: Duration::from_secs(5),
            switchover_cancel_without_pause: false,
            member_slots_ttl: Duration::from_mins(30),
        }
    }
}

/// The settings below `postgresql` that both configurations may hold; absent ones are not written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PostgresqlSettings {
    /// Server parameters with their text as written, names in lower case.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf`.
    pub pg_ident: Option<Vec<String>>,
    /// Options for `pg_basebackup`.
    pub basebackup: Option<Vec<ToolOption>>,
    /// Options for `pg_rewind`.
    pub rewind: Option<Vec<ToolOption>>,
    /// Whether a diverged member is rewound.
    pub use_pg_rewind: Option<bool>,
    /// Whether a member whose rewind failed is cloned anew.
    pub remove_data_directory_on_rewind_failure: Option<bool>,
    /// Whether a diverged member that cannot be rewound is cloned anew.
    pub remove_data_directory_on_diverged_timelines: Option<bool>,
    /// Whether each member has a replication slot.
    pub use_slots: Option<bool>,
    /// Whether the agent connects over the server's socket.
    pub use_unix_socket: Option<bool>,
    /// How long a start may take.
    pub pg_ctl_timeout: Option<Duration>,
}

/// Options that pgbaton gives to `pg_basebackup` itself.
const BASEBACKUP_FORBIDDEN: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "compress",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];

/// Options that pgbaton gives to `pg_rewind` itself.
const REWIND_FORBIDDEN: &[&str] = &[
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
];

impl DynamicConfig {
    /// Reads a document that is already stored: what cannot be used takes its default. The findings say so, with
    /// [`Severity::Error`] where the document promises what pgbaton cannot keep.
    pub fn read(document: Map<String, Value>) -> (Self, Vec<Diagnostic>) {
        let node = Node::from_json(&Value::Object(document.clone()));
        let mut findings = Findings::default();
        let config = Self::from_node(document, &node, "", &mut findings);
        (config, findings.into_list())
    }

    /// Checks a document before it is stored.
    ///
    /// # Errors
    /// All findings that forbid it, at least one.
    pub fn validate(document: Map<String, Value>) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let (config, findings) = Self::read(document);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| finding.severity == Severity::Error);
        if errors.is_empty() { Ok((config, warnings)) } else { Err(errors) }
    }

    /// This configuration with a patch laid over it as `PATCH /config` does; none when nothing changes.
    ///
    /// What was wrong before the patch and still is does not forbid it: a cluster must be paused also when its
    /// document holds a key of long ago.
    ///
    /// # Errors
    /// All findings that forbid the result.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Option<Self>, Vec<Diagnostic>> {
        let mut document = self.document.clone();
        if !merge_patch(&mut document, patch) {
            return Ok(None);
        }
        let (_, before) = Self::read(self.document.clone());
        let (config, after) = Self::read(document);
        let errors: Vec<_> =
            after.into_iter().filter(|finding| finding.is_error() && !before.contains(finding)).collect();
        if errors.is_empty() { Ok(Some(config)) } else { Err(errors) }
    }

    /// Reads the document at `path` of a tree.
    pub(crate) fn from_node(document: Map<String, Value>, node: &Node, path: &str, findings: &mut Findings) -> Self {
        promises::check_dynamic(node, path, findings);
        keys::check_dynamic(node, path, findings);
        let section = Section::at(node, path);
        let cluster = ClusterSettings::read(&section, findings);
        let postgresql = section.section("postgresql", findings);
        check_controlled(&postgresql, findings);
        let postgresql = PostgresqlSettings::read(&postgresql, findings);
        Self { document, cluster, postgresql }
    }
}

impl Default for DynamicConfig {
    fn default() -> Self {
        Self { document: Map::new(), cluster: ClusterSettings::default(), postgresql: PostgresqlSettings::default() }
    }
}

impl ClusterSettings {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        let defaults = Self::default();
        let timing = Timing::read(section, findings);
        let mut first = |keys: [&str; 2], default| {
            keys.into_iter().find_map(|key| section.seconds(key, findings)).unwrap_or(default)
        };
        Self {
            timing,
            primary_start_timeout: first(
                ["primary_start_timeout", "master_start_timeout"],
                defaults.primary_start_timeout,
            ),
            primary_stop_timeout: first(["primary_stop_timeout", "master_stop_timeout"], defaults.primary_stop_timeout),
            maximum_lag_on_failover: section
                .count("maximum_lag_on_failover", findings)
                .unwrap_or(defaults.maximum_lag_on_failover),
            check_timeline: section.boolean("check_timeline", findings).unwrap_or(defaults.check_timeline),
            pause: section.boolean("pause", findings).unwrap_or(defaults.pause),
            max_timelines_history: section
                .count("max_timelines_history", findings)
                .map_or(defaults.max_timelines_history, |rows| u32::try_from(rows).unwrap_or(u32::MAX)),
            switchover_pause_within: pause_within(section, findings).unwrap_or(defaults.switchover_pause_within),
            switchover_cancel_without_pause: section
                .boolean("switchover_cancel_without_pause", findings)
                .unwrap_or(defaults.switchover_cancel_without_pause),
            member_slots_ttl: section.seconds("member_slots_ttl", findings).unwrap_or(defaults.member_slots_ttl),
        }
    }
}

/// The longest wait for poolers, which an operator who has asked for a switchover would still sit out.
const PAUSE_WITHIN_MAX: Duration = Duration::from_mins(1);

fn pause_within(section: &Section<'_>, findings: &mut Findings) -> Option<Duration> {
    let value = section.seconds("switchover_pause_within", findings)?;
    if value <= PAUSE_WITHIN_MAX {
        return Some(value);
    }
    let place = section.get("switchover_pause_within").map(|node| node.place.clone()).unwrap_or_default();
    let (path, most) = (section.path_of("switchover_pause_within"), PAUSE_WITHIN_MAX.as_secs());
    let message = format!("{path} must be at most {most} seconds, found {}", value.as_secs_f64());
    findings.error(&path, &place, message, "give a number of seconds in which transactions have ended, such as 5");
    None
}

impl PostgresqlSettings {
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        check_clone_methods(section, findings);
        let parameters = section
            .texts("parameters", findings)
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        Self {
            parameters,
            pg_hba: section.lines("pg_hba", findings),
            pg_ident: section.lines("pg_ident", findings),
            basebackup: section.options("basebackup", BASEBACKUP_FORBIDDEN, true, findings),
            rewind: section.options("rewind", REWIND_FORBIDDEN, true, findings),
            use_pg_rewind: section.boolean("use_pg_rewind", findings),
            remove_data_directory_on_rewind_failure: section
                .boolean("remove_data_directory_on_rewind_failure", findings),
            remove_data_directory_on_diverged_timelines: section
                .boolean("remove_data_directory_on_diverged_timelines", findings),
            use_slots: section.boolean("use_slots", findings),
            use_unix_socket: section.boolean("use_unix_socket", findings),
            pg_ctl_timeout: section.seconds("pg_ctl_timeout", findings),
        }
    }
}

/// Names values that the parameters which all members share cannot have.
fn check_controlled(postgresql: &Section<'_>, findings: &mut Findings) {
    for entry in postgresql.get("parameters").map(Node::entries).unwrap_or_default() {
        let Some(text) = entry.value.text() else { continue };
        if let Some(expected) = effective::expected_of(&entry.key.to_ascii_lowercase(), text) {
            let path = format!("{}.parameters.{}", postgresql.path(), entry.key);
            findings.warning(&path, &entry.value.place, format!("{path} is '{text}': {expected}"), "");
        }
    }
}

/// Members are cloned with `pg_basebackup` only; another method is named once.
fn check_clone_methods(section: &Section<'_>, findings: &mut Findings) {
    for key in ["create_replica_methods", "create_replica_method"] {
        let Some(node) = section.get(key) else { continue };
        let plain = match &node.kind {
            Kind::List(items) => items.iter().all(|item| item.text() == Some("basebackup")),
            _ => node.text() == Some("basebackup"),
        };
        if !plain {
            let path = section.path_of(key);
            let message = format!("{path}: only 'basebackup' is supported");
            findings.warning(&path, &node.place, message, "members are cloned with pg_basebackup");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().expect("a map").clone()
    }

    #[test]
    fn a_patch_that_promises_safety_is_refused() {
        let config = DynamicConfig::default();
        let cases = [
            (json!({"synchronous_mode": true}), "synchronous_mode is set to 'true'"),
            (json!({"synchronous_mode": "quorum"}), "synchronous_mode is set to 'quorum'"),
            (json!({"synchronous_mode_strict": "on"}), "synchronous_mode_strict is set to 'on'"),
            (json!({"failsafe_mode": true}), "failsafe_mode is set to 'true'"),
            (json!({"standby_cluster": {"host": "a"}}), "standby clusters are not supported"),
            (json!({"ttl": 4}), "ttl must be at least 5 seconds, found 4"),
            (json!({"ttl": 10, "loop_wait": 3, "retry_timeout": 4}), "but 3 + 2 * 4 > 10"),
            (json!({"ttl": "soon"}), "ttl: expected a number of seconds, 0 or more, found 'soon'"),
            (json!({"pause": "perhaps"}), "pause: expected on or off, found 'perhaps'"),
            (json!({"postgresql": 5}), "postgresql: expected a map of keys and values, found '5'"),
            (json!({"postgresql": {"parameters": {"a": [1]}}}), "postgresql.parameters.a: expected a single value"),
        ];
        for (patch, message) in cases {
            let errors = config.patched(&map(&patch)).expect_err(&patch.to_string());
            assert!(errors.iter().any(|error| error.message.contains(message)), "{patch}: {errors:?}");
        }
    }

    #[test]
    fn a_good_patch_is_applied_and_unknown_keys_stay() {
        let (config, findings) =
            DynamicConfig::read(map(&json!({"ttl": 30, "mine": {"x": 1}, "synchronous_mode": false})));
        assert_eq!(findings.len(), 1, "{findings:?}");
        let patched = config.patched(&map(&json!({"pause": true, "ttl": "20"}))).unwrap().unwrap();
        assert_eq!(patched.cluster.timing.ttl, Duration::from_secs(20));
        assert!(patched.cluster.pause);
        assert_eq!(patched.document["mine"], json!({"x": 1}));
        assert_eq!(config.patched(&map(&json!({"ttl": "30"}))), Ok(None));
    }

    #[test]
    fn an_old_mistake_does_not_forbid_a_patch() {
        let (config, _) = DynamicConfig::read(map(&json!({"synchronous_mode": true})));
        assert!(config.patched(&map(&json!({"pause": true}))).unwrap().unwrap().cluster.pause);
        assert!(config.patched(&map(&json!({"synchronous_mode": "quorum"}))).is_err());
        assert!(config.patched(&map(&json!({"synchronous_mode": null}))).is_ok());
    }

    #[test]
    fn a_stored_document_that_cannot_be_used_falls_back() {
        let (config, findings) = DynamicConfig::read(map(&json!({"ttl": 1, "loop_wait": 0.5, "pause": "x"})));
        assert_eq!(findings.iter().filter(|finding| finding.is_error()).count(), 2, "{findings:?}");
        assert_eq!(config.cluster.timing.ttl, Timing::DEFAULT.ttl);
        assert_eq!(config.cluster.timing.loop_wait, Duration::from_millis(500));
        assert!(!config.cluster.pause);
    }

    #[test]
    fn parameters_of_json_become_text() {
        let (config, _) = DynamicConfig::read(map(
            &json!({"postgresql": {"parameters": {"Max_Connections": 100, "hot_standby": true, "x.y": "a b"}}}),
        ));
        let expected = [("hot_standby", "true"), ("max_connections", "100"), ("x.y", "a b")];
        let read: Vec<_> = config.postgresql.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(read, expected);
    }
}
