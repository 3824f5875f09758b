use std::collections::BTreeMap;
use std::time::Duration;

use crate::dynamic::{ClusterSettings, DynamicConfig};
use crate::local::LocalConfig;
use crate::section::ToolOption;
use crate::values::{parse_bool, parse_integer};

/// What a controlled parameter may be.
#[derive(Debug, Clone, Copy)]
enum Allowed {
    /// A whole number, at least this.
    AtLeast(i64),
    /// A boolean.
    Switch,
    /// A boolean that is on.
    On,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// Parameters that must be the same on all members, so that a standby can follow any primary, with default and limit.
/// Only the dynamic configuration sets them; the order is that of the postmaster's command line (PostgreSQL
/// documentation, "Hot Standby", section "Administrator's Overview", for those that a standby compares with the
/// primary).
const CONTROLLED: &[(&str, &str, Allowed)] = &[
    ("wal_level", "replica", Allowed::OneOf(&["hot_standby", "replica", "logical"])),
    ("hot_standby", "on", Allowed::On),
    ("max_connections", "100", Allowed::AtLeast(25)),
    ("max_wal_senders", "10", Allowed::AtLeast(3)),
    ("max_prepared_transactions", "0", Allowed::AtLeast(0)),
    ("max_locks_per_transaction", "64", Allowed::AtLeast(32)),
    ("track_commit_timestamp", "off", Allowed::Switch),
    ("max_replication_slots", "10", Allowed::AtLeast(4)),
    ("max_worker_processes", "8", Allowed::AtLeast(2)),
    ("wal_log_hints", "on", Allowed::Switch),
];

/// Controlled as well, but without a default here: PostgreSQL 13 has `wal_keep_size`, older ones the other.
const CONTROLLED_WITHOUT_DEFAULT: &[&str] = &["wal_keep_size", "wal_keep_segments"];

/// Parameters that pgbaton itself sets from `listen` and `scope`; nobody else's value counts.
const OWN: &[&str] = &["listen_addresses", "port", "cluster_name"];

/// How long a server may take to start when nobody says: Patroni's default.
const PG_CTL_TIMEOUT: Duration = Duration::from_mins(1);

/// What holds on one member now: defaults, below the dynamic configuration, below the local one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the same name in the file")]
pub struct Effective {
    /// The keys of the high-availability logic, from the dynamic configuration alone.
    pub cluster: ClusterSettings,
    /// Server parameters with the defaults of the controlled ones, without `listen_addresses`, `port` and
    /// `cluster_name`, which the caller derives from the local configuration.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`; none leaves the file alone.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf`; none leaves the file alone.
    pub pg_ident: Option<Vec<String>>,
    /// Options for `pg_basebackup`.
    pub basebackup: Vec<ToolOption>,
    /// Options for `pg_rewind`.
    pub rewind: Vec<ToolOption>,
    /// Whether a diverged member is rewound.
    pub use_pg_rewind: bool,
    /// Whether a member whose rewind failed is cloned anew.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Whether a diverged member that cannot be rewound is cloned anew.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Whether each member has a replication slot; only the dynamic configuration says.
    pub use_slots: bool,
    /// Whether the agent connects over the server's socket.
    pub use_unix_socket: bool,
    /// How long a start may take when nothing else limits it.
    pub pg_ctl_timeout: Duration,
}

impl Effective {
    /// The settings that follow from both configurations.
    pub fn of(local: &LocalConfig, dynamic: &DynamicConfig) -> Self {
        let (ours, shared) = (&local.postgresql.settings, &dynamic.postgresql);
        let mut parameters: BTreeMap<String, String> =
            CONTROLLED.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())).collect();
        let usable = |(name, value): &(&String, &String)| expected_of(name, value).is_none();
        parameters.extend(shared.parameters.iter().filter(usable).map(|(n, v)| (n.clone(), v.clone())));
        parameters.extend(
            ours.parameters.iter().filter(|(name, _)| !is_controlled(name)).map(|(n, v)| (n.clone(), v.clone())),
        );
        parameters.retain(|name, _| !OWN.contains(&name.as_str()));
        let either = |ours: Option<bool>, shared: Option<bool>| ours.or(shared).unwrap_or(false);
        Self {
            cluster: dynamic.cluster,
            parameters,
            pg_hba: ours.pg_hba.clone().or_else(|| shared.pg_hba.clone()),
            pg_ident: ours.pg_ident.clone().or_else(|| shared.pg_ident.clone()),
            basebackup: ours.basebackup.clone().or_else(|| shared.basebackup.clone()).unwrap_or_default(),
            rewind: ours.rewind.clone().or_else(|| shared.rewind.clone()).unwrap_or_default(),
            use_pg_rewind: either(ours.use_pg_rewind, shared.use_pg_rewind),
            remove_data_directory_on_rewind_failure: either(
                ours.remove_data_directory_on_rewind_failure,
                shared.remove_data_directory_on_rewind_failure,
            ),
            remove_data_directory_on_diverged_timelines: either(
                ours.remove_data_directory_on_diverged_timelines,
                shared.remove_data_directory_on_diverged_timelines,
            ),
            use_slots: shared.use_slots.unwrap_or(true),
            use_unix_socket: either(ours.use_unix_socket, shared.use_unix_socket),
            pg_ctl_timeout: ours.pg_ctl_timeout.or(shared.pg_ctl_timeout).unwrap_or(PG_CTL_TIMEOUT),
        }
    }
}

/// Whether only the dynamic configuration may set a parameter, or nobody.
pub(crate) fn is_controlled(name: &str) -> bool {
    CONTROLLED.iter().any(|(known, _, _)| *known == name)
        || CONTROLLED_WITHOUT_DEFAULT.contains(&name)
        || OWN.contains(&name)
}

/// What a controlled parameter was expected to be, if `value` is not that; it then keeps its default.
pub(crate) fn expected_of(name: &str, value: &str) -> Option<String> {
    let (_, default, allowed) = CONTROLLED.iter().find(|(known, _, _)| *known == name)?;
    let (fits, what) = match allowed {
        Allowed::AtLeast(least) => {
            (parse_integer(value).is_some_and(|number| number >= *least), format!("a whole number, {least} or more"))
        }
        Allowed::Switch => (parse_bool(value).is_some(), "on or off".to_owned()),
        Allowed::On => (parse_bool(value) == Some(true), "on".to_owned()),
        Allowed::OneOf(words) => {
            (words.contains(&value.to_ascii_lowercase().as_str()), format!("one of {}", words.join(", ")))
        }
    };
    (!fits).then(|| format!("expected {what}; it stays {default}"))
}
