use jiff::Timestamp;
use pgbaton_api::{INTERFACE_VERSION, Metrics, Program, ReplicationRow, StatusDocument, Xlog, iso_loose};
use pgbaton_core::observation::Directory;
use pgbaton_postgres::{Sample, SampledRole};
use pgbaton_types::Lsn;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::health::known_state;
use crate::shared::Snapshot;

/// `GET /patroni`.
pub(super) fn patroni(now: &Snapshot) -> Answer {
    Answer::json(200, &document(now))
}

/// `GET /metrics`.
pub(super) fn metrics(now: &Snapshot) -> Answer {
    let sample = now.sample.as_deref();
    let (mut location, mut received, mut replayed) = (Lsn::INVALID, Lsn::INVALID, Lsn::INVALID);
    let (mut replayed_timestamp, mut replay_paused) = (None, false);
    match sample.map(|sample| &sample.role) {
        Some(SampledRole::Primary { flushed, .. }) => location = *flushed,
        Some(SampledRole::Standby { received: last, replayed: to, replay_paused: paused, replayed_at, .. }) => {
            (received, replayed, replay_paused) = (last.unwrap_or(*to), *to, *paused);
            replayed_timestamp = replayed_at.and_then(moment);
        }
        None => {}
    }
    let tags = &now.local.tags;
    let metrics = Metrics {
        scope: now.local.scope.clone(),
        name: now.local.name.to_string(),
        state: known_state(now),
        role: now.role,
        postmaster_start_time: sample.and_then(|sample| sample.postmaster_started.parse().ok()),
        location,
        received,
        replayed,
        replayed_timestamp,
        replay_paused,
        replication_state: replication_state(now).map(str::to_owned),
        server_version: sample.map(|sample| sample.version),
        cluster_unlocked: now.observation.store.cluster.leader.is_none(),
        timeline: sample.map_or(0, |sample| sample.timeline().0),
        dcs_last_seen: last_seen(now),
        pending_restart: !now.pending_restart.is_empty(),
        paused: now.settings.paused,
        failover_priority: if tags.no_failover { 0 } else { tags.failover_priority },
    };
    Answer::metrics(metrics.encode())
}

/// The document that health checks and `/patroni` show.
pub(super) fn document(now: &Snapshot) -> StatusDocument {
    let sample = now.sample.as_deref();
    StatusDocument {
        state: known_state(now).map_or("unknown", pgbaton_api::PostgresState::as_str).to_owned(),
        postmaster_start_time: sample.map(|sample| sample.postmaster_started.clone()),
        role: now.role,
        server_version: sample.map(|sample| sample.version),
        xlog: sample.map(xlog),
        timeline: sample.map(|sample| sample.timeline().0),
        replication_state: replication_state(now).map(str::to_owned),
        replication: sample.map(|sample| replication(now, sample)).unwrap_or_default(),
        pause: now.settings.paused,
        cluster_unlocked: now.observation.store.cluster.leader.is_none(),
        dcs_last_seen: last_seen(now),
        tags: now.local.tags.published.clone(),
        database_system_identifier: system_id(now),
        pending_restart: !now.pending_restart.is_empty(),
        pending_restart_reason: now
            .pending_restart
            .iter()
            .map(|name| (name.clone(), Value::Object(Map::new())))
            .collect(),
        patroni: Program {
            version: INTERFACE_VERSION.to_owned(),
            scope: now.local.scope.clone(),
            name: now.local.name.to_string(),
        },
        scheduled_restart: now
            .scheduled_restart
            .iter()
            .filter(|(key, _)| *key != "postmaster_start_time")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}

/// `streaming`, for a standby that does; a standby that fetches from an archive is not told apart from one that waits.
pub(super) fn replication_state(now: &Snapshot) -> Option<&'static str> {
    match &now.sample.as_ref()?.role {
        SampledRole::Standby { receiver: Some(receiver), .. } if receiver.status == "streaming" => Some("streaming"),
        SampledRole::Standby { .. } if now.effective.parameters.contains_key("restore_command") => {
            Some("in archive recovery")
        }
        _ => None,
    }
}

fn xlog(sample: &Sample) -> Xlog {
    match &sample.role {
        SampledRole::Primary { flushed, .. } => Xlog::Primary { location: *flushed },
        SampledRole::Standby { received, replayed, replay_paused, replayed_at, .. } => Xlog::Standby {
            received_location: received.unwrap_or(*replayed),
            replayed_location: *replayed,
            replayed_timestamp: replayed_at.and_then(moment).map(iso_loose),
            paused: *replay_paused,
        },
    }
}

fn replication(now: &Snapshot, sample: &Sample) -> Vec<ReplicationRow> {
    let user = &now.local.postgresql.authentication.replication.username;
    let row = |row: &pgbaton_postgres::ReplicationRow| ReplicationRow {
        usename: user.clone(),
        application_name: row.application_name.clone(),
        client_addr: row.client_address.map(|address| address.to_string()),
        state: row.state.clone(),
        sync_state: row.sync_state.clone(),
        // Nobody is a synchronous standby in this version.
        sync_priority: 0,
    };
    sample.replication.iter().map(row).collect()
}

fn system_id(now: &Snapshot) -> Option<String> {
    match (&now.sample, &now.observation.local.directory) {
        (Some(sample), _) => Some(sample.system_id.to_string()),
        (None, Directory::Database(database)) => Some(database.system_id.to_string()),
        _ => None,
    }
}

fn last_seen(now: &Snapshot) -> i64 {
    i64::try_from(now.store_last_seen).unwrap_or(i64::MAX)
}

/// Seconds since 1970 as a time; none for what no server says.
fn moment(seconds: f64) -> Option<Timestamp> {
    std::time::Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
}
