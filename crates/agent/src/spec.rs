//! From the configuration to what the core and the server's crate want.

use std::path::PathBuf;
use std::time::Duration;

use pgbaton_config::{DatabaseUser, Effective, LocalConfig};
use pgbaton_core::{Settings, WithoutPause};
use pgbaton_postgres::{Authentication, Credentials, HostPort, Installation, Program, Secret, ServerSpec};

/// The core's settings. `kill_time` is K, as the guard says it.
pub(crate) fn settings(local: &LocalConfig, effective: &Effective, kill_time: Duration) -> Settings {
    let timing = effective.cluster.timing;
    Settings {
        ttl: timing.ttl,
        loop_wait: timing.loop_wait,
        retry_timeout: timing.retry_timeout,
        kill_time,
        maximum_lag_on_failover: effective.cluster.maximum_lag_on_failover,
        primary_start_timeout: effective.cluster.primary_start_timeout,
        use_pg_rewind: effective.use_pg_rewind,
        remove_data_on_rewind_failure: effective.remove_data_directory_on_rewind_failure,
        remove_data_on_diverged: effective.remove_data_directory_on_diverged_timelines,
        paused: effective.cluster.pause,
        nofailover: local.tags.no_failover,
        failover_priority: priority(local),
        pause_within: effective.cluster.switchover_pause_within,
        without_pause: if effective.cluster.switchover_cancel_without_pause {
            WithoutPause::CallOff
        } else {
            WithoutPause::Proceed
        },
        may_bootstrap: local.bootstrap.is_some(),
        bugs: pgbaton_core::Bugs::default(),
    }
}

/// The tag `failover_priority` as the core ranks by it.
pub(crate) fn priority(local: &LocalConfig) -> u32 {
    u32::try_from(local.tags.failover_priority.max(0)).unwrap_or(u32::MAX)
}

/// The server as both configurations describe it.
pub(crate) fn server(local: &LocalConfig, effective: &Effective) -> ServerSpec {
    let postgresql = &local.postgresql;
    let names = [Program::Postgres, Program::Initdb, Program::BaseBackup, Program::Rewind]
        .into_iter()
        .filter_map(|program| postgresql.bin_name.get(program.name()).map(|name| (program, name.clone())))
        .collect();
    let mut parameters = effective.parameters.clone();
    let sockets = parameters.remove("unix_socket_directories").unwrap_or_default();
    let sockets: Vec<PathBuf> =
        sockets.split(',').map(str::trim).filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    ServerSpec {
        name: local.name.clone(),
        scope: local.scope.clone(),
        data_dir: postgresql.data_dir.clone(),
        installation: Installation { bin_dir: postgresql.bin_dir.clone(), names },
        listen_addresses: postgresql.listen.hosts.join(","),
        port: postgresql.listen.port,
        connect_address: HostPort::new(postgresql.connect_address.host.clone(), postgresql.connect_address.port),
        unix_socket_directories: sockets,
        authentication: Authentication {
            superuser: user(&postgresql.authentication.superuser),
            replication: user(&postgresql.authentication.replication),
            rewind: postgresql.authentication.rewind.as_ref().map(user),
        },
        database: postgresql.database.clone(),
        parameters,
        pg_hba: effective.pg_hba.clone(),
        pg_ident: effective.pg_ident.clone(),
        pgpass: postgresql.pgpass.clone().unwrap_or_else(|| beside(&postgresql.data_dir, "pgpass")),
        pg_ctl_timeout: effective.pg_ctl_timeout,
    }
}

/// A path beside the data directory: what is inside it is replaced by clones and rewinds.
pub(crate) fn beside(data_dir: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".pgbaton-{suffix}"));
    data_dir.with_file_name(name)
}

fn user(user: &DatabaseUser) -> Credentials {
    Credentials {
        username: user.username.clone(),
        password: user.password.as_ref().map(|password| Secret::new(password.reveal())),
        options: user.connection.clone(),
    }
}

/// Options of a tool, as its crate names them.
pub(crate) fn options(options: &[pgbaton_config::ToolOption]) -> Vec<pgbaton_postgres::ToolOption> {
    options
        .iter()
        .map(|option| match &option.value {
            Some(value) => pgbaton_postgres::ToolOption::Value(option.name.clone(), value.clone()),
            None => pgbaton_postgres::ToolOption::Flag(option.name.clone()),
        })
        .collect()
}
