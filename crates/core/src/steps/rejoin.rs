//! A stopped database is to follow another member: as it is, after a rewind, or not at all. Divergence is proven by
//! ancestry and switch positions, never by numbers, and nothing is put away without that proof and a healthy source.

use std::time::Duration;

use pgbaton_types::{Divergence, Lsn, TimelineHistory};

use crate::bugs::Bug;
use crate::decision::{Action, OperationKind, QuarantineReason};
use crate::observation::{ControlState, Database, LeaderKey, Outcome, PeerAnswer};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::follower::{START_PAUSE, leader_is_up};

/// A question about the leader's history that got no answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait between two tries of a rewind that fails.
const RETRY_MAX: Duration = Duration::from_secs(30);

pub(crate) fn step(plan: &mut Plan<'_>, leader: &LeaderKey, database: &Database) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if settings.bugs.has(Bug::Repmgr766) && matches!(database.state, ControlState::InProduction) {
        plan.begin(OperationKind::StartPrimary { epoch: plan.memory.promised });
        return plan.taken(Step::Rejoin, "starts the server as it was");
    }
    let cannot_start = seen.finished.as_ref().is_some_and(|finished| {
        matches!(finished.kind, OperationKind::StartStandby { .. }) && matches!(finished.outcome, Outcome::Failed(_))
    });
    match (database.state, database.end) {
        (ControlState::InRecovery, _) if cannot_start => recover(plan, "a standby's directory that does not start"),
        // A standby's directory: whether it fits shows when it runs.
        (ControlState::InRecovery, _) | (_, None) if database.state != ControlState::InProduction => {
            start(plan, leader, "a standby's directory")
        }
        (ControlState::InProduction, _) | (_, None) => recover(plan, "a crashed primary's directory"),
        (_, Some(end)) => compare(plan, leader, database, end),
    }
}

/// Where the WAL of a crashed directory ends shows only after its recovery.
fn recover(plan: &mut Plan<'_>, what: &str) -> Flow {
    let seen = plan.seen;
    let failed = seen.finished.as_ref().filter(|finished| finished.kind == OperationKind::RecoverAlone);
    if let Some(finished) = failed
        && let Outcome::Failed(why) = &finished.outcome
        && seen.now.since(finished.at) < RETRY_MAX
    {
        plan.wake_at_latest(finished.at + RETRY_MAX);
        return plan.blocked(
            Step::Rejoin,
            format!("{what}: its recovery failed ({why}); tried again later, or run `pgbaton reinit`"),
        );
    }
    plan.begin(OperationKind::RecoverAlone);
    plan.taken(Step::Rejoin, format!("{what}: recovers it, to see where its WAL ends"))
}

/// Asks the leader for its history, unless it has just been asked.
pub(crate) fn ask_leader(plan: &mut Plan<'_>, leader: &LeaderKey) {
    let seen = plan.seen;
    let just_asked = leader_answer(plan, leader).is_some_and(|answer| seen.now.since(answer.asked) < ASK_AGAIN);
    if !just_asked {
        plan.act(Action::AskPeers { members: vec![leader.member.clone()] });
    }
    plan.wake_after(ASK_AGAIN);
}

/// What the leader said in this reign: an answer from before may tell of a history that it has left.
pub(crate) fn leader_answer<'a>(plan: &Plan<'a>, leader: &LeaderKey) -> Option<&'a PeerAnswer> {
    let since = plan.memory.reign_seen.filter(|(epoch, _)| *epoch == leader.epoch).map(|(_, since)| since)?;
    plan.seen.peer(&leader.member).filter(|answer| answer.asked >= since)
}

/// The history of the leader's timeline as the leader itself told it in this reign.
pub(crate) fn leader_history<'a>(plan: &Plan<'a>, leader: &LeaderKey) -> Option<&'a TimelineHistory> {
    let answer = leader_answer(plan, leader)?;
    answer.primary.then_some(answer.history.as_ref()).flatten()
}

fn compare(plan: &mut Plan<'_>, leader: &LeaderKey, database: &Database, end: Lsn) -> Flow {
    let settings = plan.settings;
    if !leader_is_up(plan, leader) {
        return start(plan, leader, "the leader is not up yet");
    }
    let Some(history) = leader_history(plan, leader) else {
        ask_leader(plan, leader);
        return plan.blocked(Step::Rejoin, format!("asks {} for the history of its timeline", leader.member));
    };
    if settings.bugs.has(Bug::Patroni2220) && history.timeline() != database.history.timeline() {
        plan.begin(OperationKind::Quarantine { why: QuarantineReason::Diverged });
        return plan.taken(Step::Rejoin, "another timeline: puts the data directory away");
    }
    match history.divergence_of(&database.history, end) {
        Divergence::None => start(plan, leader, "all that is here is in the leader's history"),
        Divergence::Unrelated if settings.bugs.has(Bug::Patroni2118) => {
            start(plan, leader, "the timeline is not in the leader's history")
        }
        Divergence::At(_)
            if settings.bugs.has(Bug::Patroni2118) && history.end_of(database.history.timeline()).is_none() =>
        {
            start(plan, leader, "the timeline is not in the leader's history")
        }
        Divergence::At(parted) => diverged(
            plan,
            leader,
            database,
            &format!("holds WAL up to {end} that parted from the leader's at {parted}"),
        ),
        Divergence::Unrelated => diverged(plan, leader, database, "its timelines do not occur in the leader's history"),
    }
}

fn start(plan: &mut Plan<'_>, leader: &LeaderKey, why: &str) -> Flow {
    if let Some(failed) = plan.failed_lately(START_PAUSE, |kind| matches!(kind, OperationKind::StartStandby { .. })) {
        return plan.blocked(Step::Rejoin, failed);
    }
    plan.begin(OperationKind::StartStandby { upstream: Some(leader.member.clone()) });
    plan.taken(Step::Rejoin, format!("starts the server as a standby of {}: {why}", leader.member))
}

fn diverged(plan: &mut Plan<'_>, leader: &LeaderKey, database: &Database, how: &str) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if settings.paused {
        return plan.blocked(Step::Rejoin, format!("{how}; paused: nothing is rebuilt"));
    }
    if settings.use_pg_rewind && database.rewindable {
        return rewind(plan, leader, how);
    }
    if settings.remove_data_on_diverged {
        plan.begin(OperationKind::Quarantine { why: QuarantineReason::Diverged });
        return plan.taken(Step::Rejoin, format!("{how}: puts the data directory away, to clone it anew"));
    }
    let missing =
        if settings.use_pg_rewind { "neither wal_log_hints nor data checksums are on" } else { "use_pg_rewind is off" };
    plan.wake_at_latest(seen.now + settings.loop_wait);
    plan.blocked(
        Step::Rejoin,
        format!("{how}; {missing} and remove_data_directory_on_diverged_timelines is off: run `pgbaton reinit` to clone anew"),
    )
}

fn rewind(plan: &mut Plan<'_>, leader: &LeaderKey, how: &str) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    let failure = seen.finished.as_ref().and_then(|finished| match (&finished.kind, &finished.outcome) {
        (OperationKind::Rewind { .. }, Outcome::Failed(why)) => Some((finished.at, why.clone())),
        _ => None,
    });
    if let Some((at, why)) = failure {
        if settings.remove_data_on_rewind_failure || settings.bugs.has(Bug::Patroni2302) {
            plan.begin(OperationKind::Quarantine { why: QuarantineReason::RewindFailed });
            return plan.taken(
                Step::Rejoin,
                format!("the rewind failed ({why}): puts the data directory away, to clone it anew"),
            );
        }
        if seen.now.since(at) < RETRY_MAX {
            plan.wake_at_latest(at + RETRY_MAX);
            return plan.blocked(
                Step::Rejoin,
                format!("the rewind failed ({why}); tried again later, or run `pgbaton reinit`"),
            );
        }
    }
    if !leader_answer(plan, leader).is_some_and(|answer| answer.primary && answer.checkpointed) {
        ask_leader(plan, leader);
        return plan.blocked(Step::Rejoin, format!("{how}; waits for the first checkpoint of {}", leader.member));
    }
    plan.begin(OperationKind::Rewind { from: leader.member.clone(), epoch: leader.epoch });
    plan.taken(Step::Rejoin, format!("{how}: rewinds to {}", leader.member))
}
