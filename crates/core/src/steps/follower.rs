//! Another member holds the lease, or nobody can: the server here shall be a standby, of the holder if there is one.

use std::time::Duration;

use pgbaton_types::Divergence;

use crate::bugs::Bug;
use crate::decision::{Action, Disarm, OperationKind, QuarantineReason, StopMode};
use crate::observation::{Answer, ControlState, Directory, Initialize, LeaderKey, Server, StandbyStatus, Work};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::rejoin;

/// How long a standby may be without its upstream before its history is compared with the leader's again: longer than
/// a receiver needs to reconnect.
const SILENCE_BEFORE_DOUBT: Duration = Duration::from_secs(3);

/// A clone that failed is tried again after this: long enough to read why, short beside a base backup.
const CLONE_PAUSE: Duration = Duration::from_secs(2);
/// A start or a change of upstream that failed is tried again after this.
pub(crate) const START_PAUSE: Duration = Duration::from_secs(1);

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if plan.settings.bugs.has(Bug::Patroni2970) && seen.lease.is_none() {
        restore_initialize(plan);
    }
    let Some(leader) = seen.other_holder().cloned() else {
        return plan.pass(Step::Follower, "nobody else holds the lease");
    };
    if seen.lease.is_some() {
        return plan.pass(Step::Follower, "this member holds a lease");
    }
    if seen.guard.armed {
        disarm(plan);
    }
    if seen.local.directory == Directory::Empty && !seen.stopped() {
        return without_data(plan);
    }
    match &seen.local.server {
        Server::Stopped { .. } => stopped(plan, &leader),
        Server::Dying { .. } => kill_remains(plan),
        Server::Running { answer: Answer::Standby(standby), .. } => running(plan, &leader, standby),
        Server::Running { answer: Answer::Starting, .. } => plan.blocked(Step::Follower, "the server is starting"),
        Server::Running { answer: Answer::Silent { .. }, .. } => {
            plan.blocked(Step::Follower, "the server does not answer")
        }
        Server::Running { answer: Answer::Primary(_), .. } => {
            plan.blocked(Step::Follower, "the server is still a primary")
        }
    }
}

fn stopped(plan: &mut Plan<'_>, leader: &LeaderKey) -> Flow {
    let seen = plan.seen;
    match &seen.local.directory {
        Directory::Unreadable { error } => {
            plan.blocked(Step::Follower, format!("the data directory cannot be read: {error}"))
        }
        Directory::Foreign { found } => plan.blocked(
            Step::Follower,
            format!("the data directory is not a database and not empty ({found}): move it away"),
        ),
        Directory::Empty => clone(plan, leader),
        // The new copy takes the place of the one that was not completed.
        Directory::Incomplete { work: Work::Clone } => clone(plan, leader),
        Directory::Incomplete { work } => incomplete(plan, *work),
        Directory::Database(database) => rejoin::step(plan, leader, database),
    }
}

fn clone(plan: &mut Plan<'_>, leader: &LeaderKey) -> Flow {
    let seen = plan.seen;
    if let Some(why) = plan.failed_lately(CLONE_PAUSE, |kind| matches!(kind, OperationKind::Clone { .. })) {
        return plan.blocked(Step::Follower, why);
    }
    if !matches!(seen.store.cluster.initialize, Initialize::Done(_)) {
        return plan.blocked(Step::Follower, "the cluster is not complete yet: nothing to clone");
    }
    if !leader_is_up(plan, leader) {
        return plan
            .blocked(Step::Follower, format!("waits until {} runs as the primary to clone from it", leader.member));
    }
    plan.begin(OperationKind::Clone { from: leader.member.clone(), epoch: leader.epoch });
    plan.taken(Step::Follower, format!("there is no data here: clones it from {}", leader.member))
}

fn incomplete(plan: &mut Plan<'_>, work: Work) -> Flow {
    let kept = work == Work::Rewind && !plan.settings.remove_data_on_rewind_failure;
    if kept {
        return plan.blocked(
            Step::Rejoin,
            "a rewind was not completed and remove_data_directory_on_rewind_failure is off: run `pgbaton reinit` to clone anew",
        );
    }
    plan.memory.made_here = false;
    plan.begin(OperationKind::Quarantine { why: QuarantineReason::Incomplete });
    plan.taken(Step::Follower, "work on the data directory was not completed: puts it away")
}

fn running(plan: &mut Plan<'_>, leader: &LeaderKey, standby: &StandbyStatus) -> Flow {
    plan.memory.failures = crate::memory::Failures::default();
    plan.memory.made_here = false;
    let up = leader_is_up(plan, leader);
    if standby.upstream.as_ref() == Some(&leader.member) && standby.streaming {
        return plan.taken(Step::Follower, format!("streams from {}", leader.member));
    }
    if !up {
        return plan.blocked(Step::Follower, format!("waits until {} runs as the primary", leader.member));
    }
    let Some(history) = rejoin::leader_history(plan, leader) else {
        rejoin::ask_leader(plan, leader);
        return plan.blocked(Step::Follower, format!("asks {} for the history of its timeline", leader.member));
    };
    let divergence = history.divergence_of(&standby.history, standby.received);
    if divergence != Divergence::None && !plan.settings.paused {
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan
            .taken(Step::Rejoin, format!("has received WAL that {} does not have: stops to rejoin", leader.member));
    }
    if let Some(why) = plan.failed_lately(START_PAUSE, |kind| matches!(kind, OperationKind::Follow { .. })) {
        return plan.blocked(Step::Follower, why);
    }
    if standby.upstream.as_ref() != Some(&leader.member) {
        plan.begin(OperationKind::Follow { upstream: leader.member.clone() });
        return plan.taken(Step::Follower, format!("follows {}", leader.member));
    }
    plan.wake_after(SILENCE_BEFORE_DOUBT);
    plan.blocked(Step::Follower, format!("does not stream from {} yet", leader.member))
}

/// Nobody leads and no server runs here: it comes up as a standby, so that it can be asked for its position.
pub(crate) fn without_leader(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if seen.guard.armed {
        disarm(plan);
    }
    match &seen.local.server {
        Server::Dying { .. } => kill_remains(plan),
        Server::Running { .. } => plan.blocked(Step::Follower, "nobody leads"),
        Server::Stopped { .. } => match &seen.local.directory {
            Directory::Database(_) => start_without_leader(plan),
            Directory::Incomplete { .. } => {
                plan.blocked(Step::Follower, "the data is not complete, and nobody leads: waits for a leader")
            }
            Directory::Empty => {
                plan.blocked(Step::Follower, "there is no data here, and nobody leads: waits for a leader")
            }
            Directory::Unreadable { error } => {
                plan.blocked(Step::Follower, format!("the data directory cannot be read: {error}"))
            }
            Directory::Foreign { found } => {
                plan.blocked(Step::Follower, format!("the data directory is not a database ({found}): move it away"))
            }
        },
    }
}

/// Starts a stopped database as a standby of nobody.
pub(crate) fn start_without_leader(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    let Some(database) = seen.database().filter(|_| seen.stopped()) else { return Flow::Pass };
    if plan.settings.bugs.has(Bug::Repmgr766)
        && matches!(database.state, ControlState::InProduction | ControlState::ShutDown)
    {
        plan.begin(OperationKind::StartPrimary { epoch: plan.memory.promised });
        return plan.taken(Step::Follower, "starts the server as it was");
    }
    if let Some(why) = plan.failed_lately(START_PAUSE, |kind| matches!(kind, OperationKind::StartStandby { .. })) {
        return plan.blocked(Step::Follower, why);
    }
    plan.begin(OperationKind::StartStandby { upstream: None });
    plan.taken(Step::Follower, "nobody leads: starts the server as a standby")
}

/// Somebody took the data directory away from under the server.
pub(crate) fn without_data(plan: &mut Plan<'_>) -> Flow {
    plan.begin(OperationKind::Stop { mode: StopMode::Kill });
    plan.taken(Step::Follower, "the data directory is gone from under the server: kills it")
}

pub(crate) fn kill_remains(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if seen.shut_down() && seen.guard.armed {
        // Cleanly shut down: it may finish archiving and sending until the deadline of the lease that it ran under,
        // at which the guard kills what is left.
        return plan.blocked(Step::Follower, "the server has shut down; its last processes end");
    }
    plan.begin(OperationKind::Stop { mode: StopMode::Kill });
    plan.taken(Step::Follower, "the postmaster is gone: kills what is left of it")
}

fn disarm(plan: &mut Plan<'_>) {
    if plan.seen.stopped() {
        plan.act(Action::DisarmGuard { why: Disarm::Stopped });
    } else if plan.seen.standby().is_some() {
        plan.act(Action::DisarmGuard { why: Disarm::Standby });
    } else if plan.settings.bugs.has(Bug::Patroni3639) {
        plan.act(Action::DisarmGuard { why: Disarm::Stopped });
    }
}

/// The leader's own word, by its member key or by its answer.
pub(crate) fn leader_is_up(plan: &Plan<'_>, leader: &LeaderKey) -> bool {
    let by_key = plan.seen.store.cluster.members.get(&leader.member).is_some_and(|facts| facts.primary);
    by_key || rejoin::leader_answer(plan, leader).is_some_and(|answer| answer.primary)
}

fn restore_initialize(plan: &mut Plan<'_>) {
    if let Some(database) = plan.seen.database()
        && plan.seen.store.cluster.initialize == Initialize::Absent
    {
        plan.act(Action::RecordInitialize { system_id: database.system_id, epoch: pgbaton_types::Epoch(0) });
    }
}
