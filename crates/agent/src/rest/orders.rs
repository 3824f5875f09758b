use std::time::Duration;

use jiff::Timestamp;
use pgbaton_api::RoleFilter;
use pgbaton_api::{PostgresState, ReinitializeRequest, Reply, RestartRequest, Role};

use super::answer::Answer;
use super::body;
use crate::clock;
use crate::event::{Order, OrderReply};
use crate::shared::{Shared, Snapshot};

/// How long a restart is waited for when the request sets no limit: a shutdown checkpoint and a recovery can take minutes.
const RESTART_WITHIN: Duration = Duration::from_mins(10);

/// How long the loop may take to accept a new clone or to read its files: a few rounds.
const ACCEPT_WITHIN: Duration = Duration::from_secs(15);

/// `POST /restart`.
pub(super) async fn restart(shared: &Shared, bytes: &[u8]) -> Answer {
    let body = match body::object_or_nothing(bytes) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let now = shared.now();
    let request = match RestartRequest::parse(&body, Timestamp::now(), now.settings.paused) {
        Ok(request) => request,
        Err(reply) => return reply.into(),
    };
    if request.schedule.is_some() {
        return match order(shared, Order::ScheduleRestart(request), ACCEPT_WITHIN).await {
            Some(OrderReply::Done) => Reply::RestartScheduled.into(),
            Some(OrderReply::Refused(_) | OrderReply::Failed(_)) => Reply::RestartAlreadyScheduled.into(),
            None => ending(),
        };
    }
    if let Some(busy) = busy(&now) {
        return busy;
    }
    if now.state == PostgresState::Starting {
        return Reply::StillStarting.into();
    }
    let role = if now.role == Role::Primary { RoleFilter::Primary } else { RoleFilter::Replica };
    let version = now.sample.as_ref().map_or(0, |sample| sample.version);
    if !request.filters.allow(role, version, !now.pending_restart.is_empty()) {
        return Reply::RestartConditionsNotMet.into();
    }
    let start_within = request.filters.timeout_s.map(Duration::from_secs);
    // A primary that is not up in that time hands over, and says so; a standby goes on starting.
    let within = match start_within {
        Some(limit) if role == RoleFilter::Primary => RESTART_WITHIN + limit,
        Some(limit) => limit,
        None => RESTART_WITHIN,
    };
    match order(shared, Order::Restart { start_within }, within).await {
        Some(OrderReply::Done) => Reply::Restarted.into(),
        Some(OrderReply::Refused(reason)) => Answer::text(503, reason),
        Some(OrderReply::Failed(reason)) => Answer::text(503, format!("{}: {reason}", Reply::RestartFailed.text())),
        None => Answer::text(503, format!("{}: not done within {} s", Reply::RestartFailed.text(), within.as_secs())),
    }
}

/// `DELETE /restart`: only one that waits for its time.
pub(super) async fn unschedule(shared: &Shared) -> Answer {
    match order(shared, Order::UnscheduleRestart, ACCEPT_WITHIN).await {
        Some(OrderReply::Done) => Reply::ScheduledRestartDeleted.into(),
        Some(OrderReply::Refused(_) | OrderReply::Failed(_)) => Reply::NoScheduledRestart.into(),
        None => ending(),
    }
}

/// `POST /reinitialize`.
pub(super) async fn reinitialize(shared: &Shared, bytes: &[u8]) -> Answer {
    let request = match body::object_or_nothing(bytes) {
        Ok(body) => ReinitializeRequest::parse(&body),
        Err(refused) => return refused,
    };
    let now = shared.now();
    let Some(leader) = &now.observation.store.cluster.leader else {
        return Reply::ReinitializeWithoutLeader.into();
    };
    if leader.member == now.observation.me || now.holds_lease(clock::now()) {
        return Reply::ReinitializeLeader.into();
    }
    if let Some(busy) = busy(&now).filter(|_| !request.force) {
        return busy;
    }
    match order(shared, Order::Reinitialize, ACCEPT_WITHIN).await {
        Some(OrderReply::Done) => Reply::ReinitializeStarted.into(),
        Some(OrderReply::Refused(reason) | OrderReply::Failed(reason)) => Answer::text(503, reason),
        None => ending(),
    }
}

/// `POST /reload`.
pub(super) async fn reload(shared: &Shared) -> Answer {
    match order(shared, Order::Reload, ACCEPT_WITHIN).await {
        Some(OrderReply::Done) => Reply::ReloadScheduled.into(),
        // Patroni says 202 and logs the mistake; whoever asked should know.
        Some(OrderReply::Refused(reason) | OrderReply::Failed(reason)) => Answer::text(422, reason),
        None => ending(),
    }
}

fn ending() -> Answer {
    Answer::text(503, "the agent is ending or does not get round to it")
}

/// The answer while another operation is under way.
fn busy(now: &Snapshot) -> Option<Answer> {
    now.operation().map(|task| Reply::Busy { task: task.to_string() }.into())
}

/// Gives an order to the loop; none when the loop is gone or did not answer in time.
async fn order(shared: &Shared, order: Order, within: Duration) -> Option<OrderReply> {
    tokio::time::timeout(within, shared.order(order)).await.ok()?.ok()
}
