//! This member in Patroni's words: the record that it publishes, its state and its role.

use pgbaton_api::layout::MemberRecord;
use pgbaton_api::{INTERFACE_VERSION, PostgresState, Role};
use pgbaton_core::memory::Proven;
use pgbaton_core::observation::{Answer, ControlState, Directory, Server, Work};
use pgbaton_core::{Observation, OperationKind};
use pgbaton_postgres::{Sample, SampledRole};
use pgbaton_types::Lsn;
use serde_json::Map;

use crate::context::Config;

/// The state of the server.
pub(crate) fn state(seen: &Observation) -> PostgresState {
    let operation = seen.operation.as_ref().map(|operation| &operation.kind);
    match (&seen.local.directory, operation) {
        (_, Some(OperationKind::Initdb)) => return PostgresState::Initdb,
        (_, Some(OperationKind::Clone { .. })) => return PostgresState::CreatingReplica,
        (Directory::Incomplete { work: Work::Bootstrap }, _) => return PostgresState::Initdb,
        (Directory::Incomplete { .. }, _) => return PostgresState::CreatingReplica,
        (_, Some(OperationKind::Stop { .. })) if !matches!(seen.local.server, Server::Stopped { .. }) => {
            return PostgresState::Stopping;
        }
        (_, Some(OperationKind::StartPrimary { .. } | OperationKind::StartStandby { .. })) => {
            return PostgresState::Starting;
        }
        _ => {}
    }
    match &seen.local.server {
        Server::Running { answer: Answer::Starting, .. } => PostgresState::Starting,
        Server::Running { .. } => PostgresState::Running,
        Server::Dying { .. } => PostgresState::Stopping,
        Server::Stopped { .. } => match &seen.local.directory {
            Directory::Database(database) if database.state == ControlState::InProduction => PostgresState::Crashed,
            _ => PostgresState::Stopped,
        },
    }
}

/// The role of the server. `ready`: as the holder it has the members' slots, so that they may come.
pub(crate) fn role(seen: &Observation, ready: bool) -> Role {
    match (&seen.local.directory, &seen.local.server) {
        (Directory::Database(_), Server::Running { answer, promoting, .. }) => match answer {
            Answer::Primary(_) if seen.lease.is_some() && !ready => Role::Promoted,
            Answer::Primary(_) => Role::Primary,
            Answer::Standby(_) if *promoting => Role::Promoted,
            Answer::Standby(_) => Role::Replica,
            Answer::Starting | Answer::Silent { .. } if seen.memory.proven == Some(Proven::Primary) => Role::Primary,
            Answer::Starting | Answer::Silent { .. } => Role::Replica,
        },
        (Directory::Database(database), _) => match database.state {
            ControlState::InProduction | ControlState::ShutDown => Role::Demoted,
            ControlState::InRecovery | ControlState::ShutDownInRecovery => Role::Replica,
        },
        _ => Role::Uninitialized,
    }
}

/// The record.
pub(crate) fn record(
    config: &Config,
    seen: &Observation,
    ready: bool,
    sample: Option<&Sample>,
    pending_restart: &[String],
) -> MemberRecord {
    let local = &config.local;
    let mut record = MemberRecord {
        conn_url: format!("postgres://{}/postgres", local.postgresql.connect_address),
        api_url: local.restapi.api_url(),
        state: state(seen).to_string(),
        role: role(seen, ready).to_string(),
        version: INTERFACE_VERSION.to_owned(),
        tags: local.tags.published.clone(),
        pending_restart: !pending_restart.is_empty(),
        pause: config.settings.paused,
        ..MemberRecord::default()
    };
    if !pending_restart.is_empty() {
        record.pending_restart_reason = pending_restart.iter().map(|name| (name.clone(), Map::new().into())).collect();
    }
    let Some(sample) = sample else { return record };
    record.timeline = match &seen.local.server {
        Server::Running { answer: Answer::Primary(primary), .. } => Some(primary.history.timeline()),
        Server::Running { answer: Answer::Standby(standby), .. } => Some(standby.history.timeline()),
        _ => None,
    };
    record.xlog_location = Some(sample.position());
    match &sample.role {
        SampledRole::Primary { .. } => {
            let open = matches!(&seen.local.server,
                Server::Running { answer: Answer::Primary(primary), .. } if !primary.checkpointed);
            record.checkpoint_after_promote = open.then_some(false);
        }
        SampledRole::Standby { received, replayed, .. } => {
            record.replay_lsn = Some(*replayed).filter(|lsn| *lsn != Lsn::INVALID);
            // After a restart PostgreSQL's own word is the start of a segment: what is replayed was received.
            record.receive_lsn = received.map(|lsn| lsn.max(*replayed)).filter(|lsn| *lsn != Lsn::INVALID);
            record.replication_state = replication_state(sample, config);
        }
    }
    record
}

/// `streaming`, `in archive recovery` or nothing.
pub(crate) fn replication_state(sample: &Sample, config: &Config) -> Option<String> {
    let streaming = sample.receiver().is_some_and(pgbaton_postgres::Receiver::is_streaming);
    let archive = config.effective.parameters.get("restore_command").is_some_and(|command| !command.is_empty());
    match (streaming, archive) {
        (true, _) => Some("streaming".to_owned()),
        (false, true) => Some("in archive recovery".to_owned()),
        (false, false) => None,
    }
}
