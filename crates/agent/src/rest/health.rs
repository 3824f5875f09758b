use pgbaton_api::{HealthInput, PostgresState, ReadinessInput, Role, health_code, liveness_code, readiness_code};
use pgbaton_postgres::SampledRole;
use pgbaton_types::Lsn;

use super::answer::Answer;
use super::status;
use crate::clock;
use crate::shared::Snapshot;

/// A health check: the code says it all, the status document comes with it.
pub(super) fn check(path: &str, query: &str, now: &Snapshot) -> Answer {
    Answer::json(health_code(&input(path, query, now)), &status::document(now))
}

/// Whether this member can serve: it leads, or it streams and is near.
pub(super) fn readiness(query: &str, now: &Snapshot) -> Answer {
    let health = input("/readiness", query, now);
    let received = match now.sample.as_ref().map(|sample| &sample.role) {
        Some(SampledRole::Standby { received, replayed, .. }) => received.unwrap_or(*replayed),
        _ => Lsn::INVALID,
    };
    let maximum_lag_on_failover = now.settings.maximum_lag_on_failover;
    Answer::bare(readiness_code(&ReadinessInput { health: &health, received, maximum_lag_on_failover }))
}

/// Whether the loop goes round.
pub(super) fn liveness(now: &Snapshot) -> Answer {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let overdue = millis(clock::now().since(now.next_run));
    Answer::bare(liveness_code(now.settings.paused, now.role == Role::Primary, overdue, millis(now.settings.ttl)))
}

pub(super) fn input<'a>(path: &'a str, query: &'a str, now: &'a Snapshot) -> HealthInput<'a> {
    let time = clock::now();
    let store = &now.observation.store;
    let (replayed, sender_position) = match now.sample.as_ref().map(|sample| &sample.role) {
        Some(SampledRole::Standby { replayed, receiver, .. }) => {
            (*replayed, receiver.as_ref().and_then(|receiver| receiver.latest_end).unwrap_or(Lsn::INVALID))
        }
        _ => (Lsn::INVALID, Lsn::INVALID),
    };
    HealthInput {
        path,
        query,
        holds_lock: now.holds_lease(time),
        view_fresh: store.as_of.is_some_and(|as_of| time.since(as_of) < now.settings.ttl),
        paused: now.settings.paused,
        role: now.role,
        state: known_state(now),
        replication_state: status::replication_state(now),
        tags: &now.local.tags.published,
        leader_position: store.cluster.position,
        sender_position,
        replayed,
    }
}

/// The state; none when the server runs as far as we know and yet does not answer.
pub(super) fn known_state(now: &Snapshot) -> Option<PostgresState> {
    let silent = now.state == PostgresState::Running && now.sample.is_none();
    (!silent).then_some(now.state)
}
