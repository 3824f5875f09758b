//! Maintenance mode: nothing is promoted, demoted or rebuilt by itself; what an operator asks for by name is done.

use crate::decision::{Action, Disarm};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::race::acquire_for_running_primary;

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if !settings.paused {
        return plan.pass(Step::Pause, "not paused");
    }
    if seen.guard.armed {
        plan.act(Action::DisarmGuard { why: Disarm::Paused });
    }
    if seen.orders.restart || seen.orders.reinitialize {
        return plan.pass(Step::Pause, "paused, but an operator asked for a restart or a new clone");
    }
    let holder = seen.valid_lease(settings).is_some();
    if holder && plan.memory.handover.is_some() {
        // An operator asked for it before the pause, and its server may be stopped already.
        return plan.pass(Step::Pause, "paused, but a handover is under way");
    }
    let named = seen.store.cluster.failover.as_ref().is_some_and(|request| request.candidate.is_some());
    if named && (holder || seen.store.cluster.leader.is_none()) {
        // A switchover or manual failover to a named member is an operator's own word.
        return plan.pass(Step::Pause, "paused, but an operator asked for a named candidate");
    }
    if holder && let Some(primary) = seen.primary() {
        // Of a cluster that is not complete nothing is published: another one may take its place.
        if seen.database().is_some() {
            plan.act(Action::PublishPosition { position: primary.position });
            let untold = seen.lease.is_some_and(|lease| seen.shows(lease) && seen.reign_is_untold(lease));
            if untold && seen.store.cluster.history.as_ref() == Some(&primary.history) {
                plan.act(Action::PublishHistory { history: primary.history.clone() });
            }
        }
        return plan.blocked(Step::Pause, "paused: the primary goes on, its lease is renewed");
    }
    if let Some(lease) = seen.lease
        && !holder
    {
        plan.act(Action::ReleaseLease { created: lease.created, successor: None });
        return plan.taken(Step::Pause, "paused: the lease is lost: forgets it; the server is left alone");
    }
    let nobody_leads = seen.store.cluster.leader.is_none() && seen.view_is_fresh(settings);
    if seen.lease.is_none()
        && nobody_leads
        && let Some(action) = acquire_for_running_primary(plan)
    {
        plan.act(action);
        return plan.taken(Step::Pause, "paused: the running primary takes the lease that nobody holds");
    }
    plan.blocked(Step::Pause, "paused: nothing is started, stopped or promoted")
}
