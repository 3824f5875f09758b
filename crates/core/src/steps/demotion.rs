//! A server that accepts writes, or may, without a lease that covers it: it is stopped, whatever else is going on.

use crate::bugs::Bug;
use crate::decision::{Action, OperationKind, StopMode};
use crate::lease::soft_deadline;
use crate::memory::HandoverPhase;
use crate::observation::{Observation, Server};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::settings::Settings;
use crate::steps::leader::highest_promise;
use crate::steps::race::unknown_identity;

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if !seen.may_be_primary(&plan.memory, settings) {
        return unguarded(plan);
    }
    if settings.paused {
        return plan.pass(Step::Demotion, "paused: a primary is left alone");
    }
    let Some((reason, mode)) = why(settings, seen) else {
        return plan.pass(Step::Demotion, "the lease covers the server");
    };
    if retakes_the_lease(settings, seen) {
        plan.act(Action::AcquireLease {
            reserve: seen
                .store
                .cluster
                .reserved
                .map_or(pgbaton_types::TimelineId::FIRST, |reservation| reservation.timeline),
            reservation_seen: seen.store.cluster.reserved.map(|reservation| reservation.revision),
            initialize_seen: seen.store.cluster.initialize,
            identity: unknown_identity(seen),
            ttl: settings.ttl,
            above: highest_promise(plan),
        });
        return plan.taken(Step::Demotion, "takes the lease again");
    }
    plan.memory.handover = None;
    plan.end_reign();
    if mode == StopMode::Kill {
        plan.renew = false;
    }
    if stop_under_way(seen, mode) {
        return plan.taken(Step::Demotion, format!("{reason}; the stop is under way"));
    }
    plan.begin(OperationKind::Stop { mode });
    plan.taken(Step::Demotion, reason)
}

/// No deadline is enforced on a server that the guard did not start: it is stopped, and started anew by the guard.
fn unguarded(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if !matches!(seen.local.server, Server::Running { guarded: false, .. }) || plan.settings.paused {
        return plan.pass(Step::Demotion, "the server is not a primary");
    }
    let reason = "the server was not started by the guard: stops it, to start it anew";
    plan.end_reign();
    if !stop_under_way(seen, StopMode::Fast) {
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
    }
    plan.taken(Step::Demotion, reason)
}

/// Why the server must stop, and how; none: it may go on.
fn why(settings: &Settings, seen: &Observation) -> Option<(String, StopMode)> {
    let Some(lease) = seen.lease else {
        let promoting = matches!(seen.local.server, Server::Running { promoting: true, .. });
        let what = if promoting { "is being promoted" } else { "is a primary" };
        return Some((format!("the server {what}, but no lease is held"), StopMode::Kill));
    };
    if seen.key_is_gone(lease, settings) {
        let now = seen.store.cluster.leader.as_ref().map_or("nobody".to_owned(), |leader| leader.member.to_string());
        return Some((format!("the leader key of {} is gone: {now} holds it", lease.epoch), StopMode::Kill));
    }
    if seen.valid_lease(settings).is_none() {
        return Some((format!("the lease of {} has passed its deadline", lease.epoch), StopMode::Kill));
    }
    if !matches!(seen.local.server, Server::Running { guarded: true, .. } | Server::Dying { .. }) {
        return Some((
            "the server was not started by the guard, so no deadline is enforced on it".to_owned(),
            StopMode::Fast,
        ));
    }
    let soft = soft_deadline(lease.deadline, lease.granted);
    let handing_over = seen.memory.handover.as_ref().is_some_and(|handover| handover.phase == HandoverPhase::Stopping);
    if seen.now.reached(soft) && !handing_over {
        return Some((format!("the lease of {} could not be renewed and ends soon", lease.epoch), StopMode::Fast));
    }
    None
}

/// What two known bugs did instead of stopping.
fn retakes_the_lease(settings: &Settings, seen: &Observation) -> bool {
    if seen.store.cluster.leader.is_some() || !seen.view_is_fresh(settings) {
        return false;
    }
    let named =
        seen.store.cluster.failover.as_ref().is_some_and(|request| request.candidate.as_ref() == Some(&seen.me));
    settings.bugs.has(Bug::Patroni2779) || settings.bugs.has(Bug::Cnpg2513) && named
}

fn stop_under_way(seen: &Observation, mode: StopMode) -> bool {
    match seen.operation.as_ref().map(|operation| &operation.kind) {
        Some(OperationKind::Stop { mode: StopMode::Kill }) => true,
        Some(OperationKind::Stop { .. }) => mode != StopMode::Kill,
        _ => false,
    }
}
