//! Every key that Patroni knows, and what becomes of it here. A key outside the table is unknown.

use std::collections::BTreeMap;

use crate::diagnostic::Findings;
use crate::document::Node;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    /// Read, and checked where it is read; a map's keys are in the table too.
    Read,
    /// Read, with keys of the user's choice below it.
    Open,
    /// Known, without effect: said once, by name, with what that means.
    Without(&'static str),
}

use Support::{Open, Read, Without};

const NOT_YET: &str = "remove it, or keep it for later; it changes nothing now";
const NO_MEANING: &str = "remove it; it means nothing to pgbaton";

/// Keys of the local configuration. Sorted by section, in the order of Patroni's documentation.
const LOCAL: &[(&str, Support)] = &[
    ("name", Read),
    ("scope", Read),
    ("namespace", Read),
    ("thread_pool_size", Without(NO_MEANING)),
    ("thread_stack_size", Without(NO_MEANING)),
    ("log", Read),
    ("log.level", Read),
    ("log.type", Without(NOT_YET)),
    ("log.traceback_level", Without(NO_MEANING)),
    ("log.format", Without(NOT_YET)),
    ("log.dateformat", Without(NOT_YET)),
    ("log.static_fields", Without(NOT_YET)),
    ("log.max_queue_size", Without(NO_MEANING)),
    ("log.dir", Without("the log goes to standard error")),
    ("log.file_num", Without("the log goes to standard error")),
    ("log.file_size", Without("the log goes to standard error")),
    ("log.mode", Without("the log goes to standard error")),
    ("log.loggers", Without(NO_MEANING)),
    ("log.deduplicate_heartbeat_logs", Without(NO_MEANING)),
    // Says by itself what it does not know.
    ("address", Open),
    // Read by whoever makes clients follow the cluster with this file.
    ("router", Open),
    ("pgbouncer", Open),
    ("files", Open),
    ("publish", Open),
    ("events", Open),
    ("restapi", Read),
    ("restapi.listen", Read),
    ("restapi.connect_address", Read),
    ("restapi.authentication", Read),
    ("restapi.authentication.username", Read),
    ("restapi.authentication.password", Read),
    // Ours.
    ("restapi.agent_check", Read),
    ("restapi.certfile", Read),
    ("restapi.keyfile", Without("the REST API speaks plain HTTP")),
    ("restapi.keyfile_password", Without("the REST API speaks plain HTTP")),
    ("restapi.cafile", Read),
    ("restapi.ciphers", Without("the REST API speaks plain HTTP")),
    ("restapi.verify_client", Read),
    ("restapi.allowlist", Read),
    ("restapi.allowlist_include_members", Read),
    ("restapi.http_extra_headers", Without(NOT_YET)),
    ("restapi.https_extra_headers", Without("the REST API speaks plain HTTP")),
    ("restapi.request_queue_size", Without(NO_MEANING)),
    ("restapi.thread_pool_size", Without(NO_MEANING)),
    ("restapi.server_tokens", Without(NOT_YET)),
    ("ctl", Read),
    ("ctl.authentication", Read),
    ("ctl.authentication.username", Read),
    ("ctl.authentication.password", Read),
    ("ctl.insecure", Without("members speak plain HTTP")),
    ("ctl.cacert", Without("members speak plain HTTP")),
    ("ctl.certfile", Without("members speak plain HTTP")),
    ("ctl.keyfile", Without("members speak plain HTTP")),
    ("ctl.keyfile_password", Without("members speak plain HTTP")),
    ("bootstrap", Open),
    ("bootstrap.dcs", Open),
    ("postgresql", Read),
    ("postgresql.name", Without("give 'name' at the top of the file")),
    ("postgresql.listen", Read),
    ("postgresql.connect_address", Read),
    ("postgresql.proxy_address", Without(NOT_YET)),
    ("postgresql.data_dir", Read),
    ("postgresql.config_dir", Without("the configuration files are in data_dir")),
    ("postgresql.config_base_name", Without("the file is postgresql.conf")),
    ("postgresql.bin_dir", Read),
    ("postgresql.bin_name", Open),
    ("postgresql.pgpass", Read),
    ("postgresql.database", Read),
    ("postgresql.authentication", Read),
    ("postgresql.authentication.superuser", Open),
    ("postgresql.authentication.replication", Open),
    ("postgresql.authentication.rewind", Open),
    ("postgresql.superuser", Without("write it below postgresql.authentication")),
    ("postgresql.replication", Without("write it below postgresql.authentication")),
    ("postgresql.pg_rewind", Without("write it as postgresql.authentication.rewind")),
    ("raft", Read),
    ("raft.data_dir", Read),
    ("raft.self_addr", Read),
    ("raft.bind_addr", Read),
    ("raft.partner_addrs", Read),
    ("raft.certfile", Read),
    ("raft.keyfile", Read),
    ("raft.cafile", Read),
    ("raft.password", Read),
    ("raft.min_timeout", Without("the store's own timing is used")),
    ("raft.max_timeout", Without("the store's own timing is used")),
    ("raft.connection_timeout", Without("the store's own timing is used")),
    ("raft.append_entries_period", Without("the store's own timing is used")),
    ("raft.connection_retry_time", Without("the store's own timing is used")),
    ("raft.leader_fallback_timeout", Without("the store's own timing is used")),
    ("tags", Open),
    ("watchdog", Read),
    ("watchdog.mode", Read),
    ("watchdog.device", Without("the guard is used instead of a watchdog device")),
    ("watchdog.safety_margin", Without("the guard is used instead of a watchdog device")),
    ("watchdog.driver", Without("the guard is used instead of a watchdog device")),
    ("citus", Without(NOT_YET)),
    // Other stores and the keys that only the dynamic configuration has: read by the promises.
    ("etcd", Open),
    ("etcd3", Read),
    ("etcd3.host", Read),
    ("etcd3.hosts", Read),
    ("etcd3.url", Read),
    ("etcd3.proxy", Read),
    ("etcd3.protocol", Read),
    ("etcd3.username", Read),
    ("etcd3.password", Read),
    ("etcd3.cacert", Read),
    ("etcd3.cert", Read),
    ("etcd3.key", Read),
    ("etcd3.srv", Read),
    ("etcd3.srv_suffix", Read),
    ("etcd3.discovery_srv", Read),
    ("etcd3.srv_domain", Read),
    ("etcd3.use_proxies", Read),
    ("consul", Open),
    ("zookeeper", Open),
    ("exhibitor", Open),
    ("kubernetes", Open),
    ("synchronous_mode", Read),
    ("synchronous_mode_strict", Read),
    ("failsafe_mode", Read),
    ("standby_cluster", Open),
    ("ttl", Without("give it below bootstrap.dcs, or change it with edit-config")),
    ("loop_wait", Without("give it below bootstrap.dcs, or change it with edit-config")),
    ("retry_timeout", Without("give it below bootstrap.dcs, or change it with edit-config")),
];

/// Keys of `bootstrap` other than `dcs`.
const BOOTSTRAP: &[(&str, Support)] = &[
    ("dcs", Open),
    ("method", Open),
    ("initdb", Open),
    ("pg_hba", Read),
    ("post_bootstrap", Without("run it by hand after the first start")),
    ("post_init", Without("run it by hand after the first start")),
    ("users", Without("create the users with SQL after the first start")),
];

/// Keys of the dynamic configuration.
const DYNAMIC: &[(&str, Support)] = &[
    ("ttl", Read),
    ("loop_wait", Read),
    ("retry_timeout", Read),
    ("maximum_lag_on_failover", Read),
    ("maximum_lag_on_syncnode", Without(NOT_YET)),
    ("max_timelines_history", Read),
    ("primary_start_timeout", Read),
    ("master_start_timeout", Read),
    ("primary_stop_timeout", Read),
    ("master_stop_timeout", Read),
    ("primary_race_backoff", Without(NOT_YET)),
    ("synchronous_mode", Read),
    ("synchronous_mode_strict", Read),
    ("synchronous_node_count", Without("replication is asynchronous")),
    ("failsafe_mode", Read),
    ("check_timeline", Read),
    ("pause", Read),
    ("member_slots_ttl", Read),
    // Ours.
    ("switchover_pause_within", Read),
    ("switchover_cancel_without_pause", Read),
    ("slots", Without("permanent slots are not kept")),
    ("permanent_slots", Without("permanent slots are not kept")),
    ("permanent_replication_slots", Without("permanent slots are not kept")),
    ("ignore_slots", Without(NOT_YET)),
    ("standby_cluster", Open),
    ("postgresql", Read),
];

/// Keys of `postgresql` that both the local and the dynamic configuration may hold.
const POSTGRESQL: &[(&str, Support)] = &[
    ("parameters", Open),
    ("pg_hba", Read),
    ("pg_ident", Read),
    ("basebackup", Open),
    ("rewind", Open),
    ("use_pg_rewind", Read),
    ("remove_data_directory_on_rewind_failure", Read),
    ("remove_data_directory_on_diverged_timelines", Read),
    ("use_slots", Read),
    ("use_unix_socket", Read),
    ("pg_ctl_timeout", Read),
    ("recovery_conf", Without(NOT_YET)),
    ("use_unix_socket_repl", Without(NOT_YET)),
    ("krbsrvname", Without(NOT_YET)),
    ("callbacks", Without("callbacks are not called")),
    ("create_replica_methods", Read),
    ("create_replica_method", Read),
    ("custom_conf", Without("postgresql.base.conf is included")),
    ("parameters_primary", Without("give the settings below parameters")),
    ("parameters_replica", Without("give the settings below parameters")),
    ("parameters_standby_leader", Without("give the settings below parameters")),
    ("pg_hba_primary", Without("give the lines below pg_hba")),
    ("pg_hba_replica", Without("give the lines below pg_hba")),
    ("pg_hba_standby_leader", Without("give the lines below pg_hba")),
    ("pg_ident_primary", Without("give the lines below pg_ident")),
    ("pg_ident_replica", Without("give the lines below pg_ident")),
    ("pg_ident_standby_leader", Without("give the lines below pg_ident")),
    ("pre_promote", Read),
    ("before_stop", Without("the script is not called")),
];

/// Keys of `postgresql` that the dynamic configuration cannot set; Patroni ignores them there, too.
const LOCAL_ONLY: &[&str] =
    &["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication", "bin_dir"];

/// A table of full paths.
type Table = BTreeMap<String, Support>;

fn table(parts: &[(&str, &[(&str, Support)])]) -> Table {
    parts
        .iter()
        .flat_map(|(prefix, keys)| keys.iter().map(move |(key, support)| (join(prefix, key), *support)))
        .collect()
}

/// Reports the keys of a local configuration that have no effect or that nobody knows.
pub(crate) fn check_local(root: &Node, findings: &mut Findings) {
    let mut keys = table(&[("", LOCAL), ("bootstrap", BOOTSTRAP), ("postgresql", POSTGRESQL)]);
    keys.insert("bootstrap".to_owned(), Read);
    // The section of a custom bootstrap or clone method has its method's name and the method's own keys.
    for (section, key) in [("bootstrap", "method"), ("postgresql", "create_replica_methods")] {
        for method in root.at(&join(section, key)).map(method_names).unwrap_or_default() {
            keys.entry(join(section, &method)).or_insert(Open);
        }
    }
    check(root, "", &keys, findings);
}

/// Reports the keys of a dynamic configuration at `path` that have no effect or that nobody knows.
pub(crate) fn check_dynamic(document: &Node, path: &str, findings: &mut Findings) {
    let postgresql = join(path, "postgresql");
    let mut keys = table(&[(path, DYNAMIC), (&postgresql, POSTGRESQL)]);
    for key in LOCAL_ONLY {
        keys.insert(join(&postgresql, key), Without("give it in the member's own file"));
    }
    for method in document.at("postgresql.create_replica_methods").map(method_names).unwrap_or_default() {
        keys.entry(join(&postgresql, &method)).or_insert(Open);
    }
    check(document, path, &keys, findings);
}

fn method_names(node: &Node) -> Vec<String> {
    match &node.kind {
        crate::document::Kind::List(items) => items.iter().filter_map(Node::text).map(str::to_owned).collect(),
        _ => node.text().map(str::to_owned).into_iter().collect(),
    }
}

fn check(node: &Node, path: &str, keys: &Table, findings: &mut Findings) {
    for entry in node.entries() {
        let full = join(path, &entry.key);
        match keys.get(&full) {
            Some(Read) => check(&entry.value, &full, keys, findings),
            Some(Without(help)) if !entry.value.is_falsy() => {
                findings.warning(&full, &entry.place, format!("{full} is not supported and has no effect"), help);
            }
            Some(Open | Without(_)) => {}
            None => {
                let help = nearest(&entry.key, path, keys).map_or_else(
                    || "remove it; it has no effect".to_owned(),
                    |known| format!("did you mean '{known}'? It has no effect as written"),
                );
                findings.warning(&full, &entry.place, format!("{full} is no key that pgbaton or Patroni knows"), &help);
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The known sibling that differs from `key` by at most two letters, or one for short keys.
fn nearest(key: &str, path: &str, keys: &Table) -> Option<String> {
    let allowed = if key.len() < 5 { 1 } else { 2 };
    keys.keys()
        .filter_map(|full| match path {
            "" => (!full.contains('.')).then_some(full.as_str()),
            _ => full.strip_prefix(path)?.strip_prefix('.').filter(|rest| !rest.contains('.')),
        })
        .map(|known| (distance(key, known), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known.to_owned())
}

/// How many letters must be put in, taken out or replaced to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        for (a, b, expected) in [("", "abc", 3), ("scope", "scpoe", 2), ("listen", "listen", 0), ("ttl", "tll", 1)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
