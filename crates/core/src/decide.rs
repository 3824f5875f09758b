use pgbaton_types::Epoch;

use crate::decision::{Action, Decision, OperationKind};
use crate::facts::unfit;
use crate::memory::Proven;
use crate::observation::{Answer, Initialize, Observation, Outcome, Server};
use crate::plan::{Flow, Plan};
use crate::settings::Settings;
use crate::steps::{demotion, follower, identity, leader, operation, order, pause, race, switchover, terminate};

/// Decides what this member does now. Pure: no I/O, no clock, no randomness.
///
/// The steps are looked at in this order; the first that settles the matter is the last.
pub fn decide(settings: &Settings, observation: &Observation) -> Decision {
    let mut plan = Plan::new(settings, observation);
    remember(&mut plan);
    plan.unfit = unfit(settings, observation);
    arm(&mut plan);
    let steps: [fn(&mut Plan<'_>) -> Flow; 9] = [
        demotion::step,
        operation::step,
        terminate::step,
        pause::step,
        order::step,
        identity::step,
        leader::step,
        follower::step,
        race::step,
    ];
    for step in steps {
        if step(&mut plan) == Flow::Settled {
            break;
        }
    }
    plan.into_decision()
}

/// A lease that is held is enforced, but for a maintenance mode: after one, it is enforced again at once.
fn arm(plan: &mut Plan<'_>) {
    if let Some(lease) = plan.seen.valid_lease(plan.settings)
        && !plan.settings.paused
        && plan.seen.guard.alive
        && !plan.seen.guard.armed
    {
        plan.act(Action::ArmGuard { epoch: lease.epoch, deadline: lease.deadline });
    }
}

/// Takes what was seen into the memory, before anything is decided.
fn remember(plan: &mut Plan<'_>) {
    let seen = plan.seen;
    match &seen.local.server {
        Server::Stopped { .. } => plan.memory.proven = None,
        Server::Running { answer: Answer::Primary(_), .. } => plan.memory.proven = Some(Proven::Primary),
        server if server.standby().is_some() => plan.memory.proven = Some(Proven::Standby),
        Server::Running { .. } | Server::Dying { .. } => {}
    }
    if seen
        .finished
        .as_ref()
        .is_some_and(|finished| finished.kind == OperationKind::Initdb && finished.outcome == Outcome::Done)
    {
        plan.memory.made_here = true;
    }
    remember_store(plan);
    if let Some(leader) = &seen.store.cluster.leader {
        plan.memory.last_holder = Some(leader.member.clone());
        plan.memory.promised = plan.memory.promised.max(leader.epoch);
        plan.memory.race = None;
        if plan.memory.reign_seen.is_none_or(|(epoch, _)| epoch != leader.epoch) {
            plan.memory.reign_seen = Some((leader.epoch, seen.now));
        }
    }
    switchover::release_poolers(plan);
    // What was proven of the last record of one reign says nothing about the next.
    let reign = seen.lease.map(|lease| lease.epoch);
    if plan.memory.handover.as_ref().is_some_and(|handover| Some(handover.epoch) != reign) {
        plan.memory.handover = None;
    }
    if let Some(lease) = seen.lease {
        plan.memory.promised = plan.memory.promised.max(lease.epoch);
        // Whoever held it last, it is this member now: what was yielded before is over.
        plan.memory.yielded = None;
    } else {
        plan.memory.reign = None;
        plan.memory.down_since = None;
        plan.memory.gave_up = false;
        plan.memory.resumes = false;
    }
}

/// Notices a store that was restored from an older copy.
fn remember_store(plan: &mut Plan<'_>) {
    plan.memory.longest_ttl = plan.memory.longest_ttl.max(plan.settings.ttl);
    let view = &plan.seen.store;
    if view.as_of.is_none() {
        return;
    }
    let ((base, revision), before) = ((view.cluster.base, view.revision), plan.memory.store_at);
    plan.memory.store_at = (base, revision);
    let done = matches!(view.cluster.initialize, Initialize::Done(_));
    plan.memory.others_seen |= done && plan.seen.other_members().next().is_some();
    let known = Epoch::of(before.0, before.1).max(plan.memory.promised);
    let went_back = base < before.0 || revision < before.1;
    let forgot = Epoch::of(base, revision) < plan.memory.promised && plan.memory.store_forgot < plan.memory.promised;
    if went_back || forgot {
        plan.memory.forgotten_by_store(known, plan.seen.now);
    }
    // What a holder reserved, a copy that is put in place right after may not show to anybody.
    let own = plan.memory.reserved.filter(|_| plan.seen.lease.is_some());
    let reserved = view.cluster.reserved.map(|reservation| reservation.timeline);
    plan.memory.timeline_given = plan.memory.timeline_given.max(reserved).max(own);
}
