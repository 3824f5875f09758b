//! Server settings: which ones pgbaton controls, and what a standby must not be below.

use std::collections::BTreeMap;

use crate::spec::text;
use crate::{ControlFile, ServerSpec};

/// How often a standby tries again to reach its upstream. PostgreSQL's own 5 s would be the gap after a restart or a
/// promotion.
const RETRY_INTERVAL: &str = "500ms";

/// WAL kept for standbys without a slot, when the configuration does not say.
const WAL_KEEP_SIZE: &str = "128MB";

/// What a controlled setting may be.
#[derive(Debug, Clone, Copy)]
enum Allowed {
    /// A number of at least this.
    Integer(u32),
    Boolean,
    /// A boolean that must be on.
    On,
    WalLevel,
}

/// Settings that must be the same on all members, in the order of the command line, with default and limits. They
/// come from the cluster's configuration only, and the command line keeps anybody's `ALTER SYSTEM` from changing one
/// member.
const CONTROLLED: [(&str, &str, Allowed); 10] = [
    ("wal_level", "replica", Allowed::WalLevel),
    ("hot_standby", "on", Allowed::On),
    ("max_connections", "100", Allowed::Integer(25)),
    ("max_wal_senders", "10", Allowed::Integer(3)),
    ("max_prepared_transactions", "0", Allowed::Integer(0)),
    ("max_locks_per_transaction", "64", Allowed::Integer(32)),
    ("track_commit_timestamp", "off", Allowed::Boolean),
    ("max_replication_slots", "10", Allowed::Integer(4)),
    ("max_worker_processes", "8", Allowed::Integer(2)),
    ("wal_log_hints", "on", Allowed::Boolean),
];

/// Settings that only pgbaton writes, or that would point the server at other files.
const OWNED: [&str; 14] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "config_file",
    "data_directory",
    "primary_conninfo",
    "primary_slot_name",
    "standby_mode",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_timeline",
];

/// Whether a setting may stand in `postgresql.auto.conf`, which wins over `postgresql.conf`.
pub(crate) fn is_recovery_setting(name: &str) -> bool {
    name.starts_with("recovery_target") || name == "primary_conninfo" || name == "primary_slot_name"
}

/// The settings of one server, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// For the command line, in this order.
    pub controlled: Vec<(String, String)>,
    /// For the file: all but recovery.
    pub file: BTreeMap<String, String>,
    /// Values that were refused and what is used instead, as sentences.
    pub warnings: Vec<String>,
}

/// A setting that a standby must take from the primary's WAL instead of its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// The setting.
    pub name: String,
    /// The configured value, which takes effect at a later restart.
    pub configured: String,
    /// The value that the server runs with.
    pub running: String,
}

impl Parameters {
    /// The settings that the configuration asks for.
    pub fn of(spec: &ServerSpec) -> Self {
        let mut warnings = Vec::new();
        let mut controlled = vec![
            ("listen_addresses".to_owned(), spec.listen_addresses.clone()),
            ("port".to_owned(), spec.port.to_string()),
            ("cluster_name".to_owned(), spec.scope.clone()),
        ];
        for (name, default, allowed) in CONTROLLED {
            let value = match spec.parameters.get(name) {
                None => default.to_owned(),
                Some(text) => allowed.read(text).unwrap_or_else(|expected| {
                    warnings.push(format!("{name} = {text:?} is not {expected}: using {default}"));
                    default.to_owned()
                }),
            };
            controlled.push((name.to_owned(), value));
        }
        let mut file = BTreeMap::new();
        for (name, value) in &spec.parameters {
            let name = name.to_ascii_lowercase();
            if OWNED.contains(&name.as_str()) || name == "wal_keep_segments" {
                if name != "wal_keep_segments" {
                    warnings.push(format!("{name} cannot be set under parameters: pgbaton sets it"));
                }
            } else if is_name(&name) {
                file.insert(name, value.clone());
            } else {
                warnings.push(format!("{name:?} is not the name of a setting: ignored"));
            }
        }
        file.extend(controlled.iter().cloned());
        file.entry("wal_keep_size".to_owned()).or_insert_with(|| wal_keep_size(spec));
        file.entry("wal_retrieve_retry_interval".to_owned()).or_insert_with(|| RETRY_INTERVAL.to_owned());
        if !spec.unix_socket_directories.is_empty() {
            let dirs: Vec<_> = spec.unix_socket_directories.iter().map(|dir| text(dir)).collect();
            file.insert("unix_socket_directories".to_owned(), dirs.join(", "));
        }
        Self { controlled, file, warnings }
    }

    /// Raises what a standby must not have below its primary's values, which the control file knows. Without it the
    /// server would refuse to start, or stop replay.
    #[must_use]
    pub fn raise_for_standby(&mut self, control: &ControlFile) -> Vec<Raised> {
        let minimums = [
            ("max_connections", control.max_connections),
            ("max_prepared_transactions", control.max_prepared_transactions),
            ("max_locks_per_transaction", control.max_locks_per_transaction),
            ("max_worker_processes", control.max_worker_processes),
            ("max_wal_senders", control.max_wal_senders),
        ];
        let mut raised = Vec::new();
        for (name, value) in &mut self.controlled {
            let Some((_, minimum)) = minimums.iter().find(|(limited, _)| limited == name) else { continue };
            if value.parse::<u32>().is_ok_and(|configured| configured < *minimum) {
                let running = minimum.to_string();
                let configured = std::mem::replace(value, running.clone());
                raised.push(Raised { name: name.clone(), configured, running });
            }
        }
        raised
    }
}

impl Allowed {
    /// The value in the form that PostgreSQL shows, or what was expected.
    fn read(self, text: &str) -> Result<String, String> {
        let text = text.trim();
        match self {
            Self::Integer(minimum) => match text.parse::<u32>() {
                Ok(number) if number >= minimum => Ok(number.to_string()),
                _ => Err(format!("a number of at least {minimum}")),
            },
            Self::Boolean => parse_bool(text).map(on_off).ok_or_else(|| "a boolean".to_owned()),
            Self::On => match parse_bool(text) {
                Some(true) => Ok("on".to_owned()),
                _ => Err("on, which a standby needs".to_owned()),
            },
            Self::WalLevel => match text.to_ascii_lowercase().as_str() {
                "replica" | "hot_standby" => Ok("replica".to_owned()),
                "logical" => Ok("logical".to_owned()),
                _ => Err("replica or logical".to_owned()),
            },
        }
    }
}

fn on_off(value: bool) -> String {
    if value { "on" } else { "off" }.to_owned()
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Names as `guc.c` allows them, extensions' with a dot: nothing that could end a line of the file.
fn is_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(valid)
}

/// `wal_keep_segments` of older configurations counts segments of 16 MB.
fn wal_keep_size(spec: &ServerSpec) -> String {
    let segments = spec.parameters.get("wal_keep_segments").and_then(|text| text.trim().parse::<u32>().ok());
    segments.map_or_else(|| WAL_KEEP_SIZE.to_owned(), |segments| format!("{}MB", u64::from(segments) * 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn with(pairs: &[(&str, &str)]) -> Parameters {
        let mut spec = spec();
        spec.parameters = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Parameters::of(&spec)
    }

    fn value<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
        parameters.controlled.iter().find(|(controlled, _)| controlled == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn bad_values_fall_back_with_a_warning() {
        let parameters = with(&[("max_connections", "5"), ("wal_level", "minimal"), ("hot_standby", "off")]);
        assert_eq!(value(&parameters, "max_connections"), Some("100"));
        assert_eq!(value(&parameters, "wal_level"), Some("replica"));
        assert_eq!(value(&parameters, "hot_standby"), Some("on"));
        assert_eq!(parameters.warnings.len(), 3, "{:?}", parameters.warnings);
    }

    #[test]
    fn the_users_settings_reach_the_file_but_not_those_that_pgbaton_owns() {
        let pairs = [
            ("work_mem", "8MB"),
            ("port", "1"),
            ("primary_conninfo", "x"),
            ("a b", "1"),
            ("pg_stat_statements.max", "9"),
        ];
        let parameters = with(&pairs);
        assert_eq!(parameters.file["work_mem"], "8MB");
        assert_eq!(parameters.file["pg_stat_statements.max"], "9");
        assert_ne!(parameters.file["port"], "1");
        assert!(!parameters.file.contains_key("primary_conninfo") && !parameters.file.contains_key("a b"));
        assert_eq!(parameters.file["wal_retrieve_retry_interval"], "500ms");
        assert_eq!(with(&[("wal_retrieve_retry_interval", "2s")]).file["wal_retrieve_retry_interval"], "2s");
        assert_eq!(with(&[("wal_keep_segments", "4")]).file["wal_keep_size"], "64MB");
    }
}
