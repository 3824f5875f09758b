//! This member holds the lease: its server shall be the primary, or the lease is given back.

use std::time::Duration;

use pgbaton_types::{Epoch, MemberName, TimelineHistory, TimelineId};

use crate::decision::{Action, OperationKind, StopMode};
use crate::lease::soft_deadline;
use crate::memory::Yielded;
use crate::observation::{Answer, ControlState, Directory, Initialize, Lease, Outcome, PrimaryStatus, Server, Work};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::patience::{self, Patience, Relief};
use crate::steps::{follower, switchover};

/// How often a holder looks at a server that starts, is promoted or dies: short, since clients wait.
const CHANGE_POLL: Duration = Duration::from_millis(100);
/// The holder's own work that failed is tried again after this: clients wait.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How long a successor's proof may be named again when the first release got lost: after that, its data may have been
/// rewound or cloned anew.
const PROOF_AGE_MAX: Duration = Duration::from_secs(2);

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    let Some(lease) = seen.valid_lease(settings) else {
        return without_valid_lease(plan);
    };
    if plan.memory.handover.is_some() && switchover::step(plan) == Flow::Settled {
        return Flow::Settled;
    }
    if let Initialize::Done(system_id) = seen.store.cluster.initialize
        && let Some(database) = seen.database()
        && database.system_id != system_id
    {
        return release(
            plan,
            lease,
            format!("the data belongs to the cluster {}, not to {system_id}", database.system_id),
        );
    }
    match &seen.local.directory {
        Directory::Unreadable { error } => {
            plan.renew = false;
            plan.blocked(Step::Leader, format!("the data directory cannot be read ({error}): the lease is not renewed"))
        }
        Directory::Empty | Directory::Foreign { .. } => release(plan, lease, "there is no database here"),
        Directory::Incomplete { work: Work::Clone | Work::Rewind } => {
            release(plan, lease, "the database is not complete")
        }
        Directory::Incomplete { work: Work::Bootstrap } if !plan.memory.made_here => {
            release(plan, lease, "a bootstrap was not completed")
        }
        Directory::Incomplete { work: Work::Bootstrap } | Directory::Database(_) => serve(plan, lease),
    }
}

fn without_valid_lease(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    let orphans = matches!(seen.local.server, Server::Dying { .. }) && !seen.shut_down();
    if orphans {
        // Whatever it was when it was last seen: nothing covers what it may still commit.
        return follower::kill_remains(plan);
    }
    let idle = seen.stopped() || seen.shut_down() || seen.standby().is_some();
    if let Some(lease) = seen.lease {
        let why = if seen.key_is_gone(lease, plan.settings) { "its key is gone" } else { "it has passed its deadline" };
        if !idle {
            return plan.blocked(
                Step::Leader,
                format!("the lease of {} is lost, {why}; the server is going down", lease.epoch),
            );
        }
        plan.act(Action::ReleaseLease { created: lease.created, successor: None });
        plan.wake_after(CHANGE_POLL);
        return plan.taken(Step::Leader, format!("the lease of {} is lost, {why}: forgets it", lease.epoch));
    }
    let own_key = seen.store.cluster.leader.as_ref().filter(|leader| leader.member == seen.me);
    match own_key {
        Some(key) if idle && seen.view_is_fresh(plan.settings) => {
            // The key bears this name, but nothing here is a primary: a release that got lost, or an agent that
            // forgot. Waiting for it to expire would only cost time.
            // Somebody may have started the server by hand since: then its WAL goes on, and the proof says nothing.
            let end = seen.position().map(|(_, end)| end);
            let proven = |given: &&Yielded| {
                given.epoch == key.epoch && Some(given.end) == end && seen.now.since(given.at) <= PROOF_AGE_MAX
            };
            let successor = plan.memory.yielded.as_ref().filter(proven).map(|given| given.successor.clone());
            plan.act(Action::ReleaseLease { created: key.created, successor });
            plan.taken(Step::Leader, "gives back a lease that it does not use")
        }
        Some(_) if idle => {
            // Until the store is there, the server may at least come up as a standby.
            if follower::start_without_leader(plan) == Flow::Settled {
                return Flow::Settled;
            }
            let silence = seen.store_silence();
            plan.blocked(Step::Leader, format!("the leader key bears this name, but no lease is held; {silence}"))
        }
        Some(_) => plan.blocked(
            Step::Leader,
            "the leader key bears this name, but no lease is held: the server has to go down first",
        ),
        None => plan.pass(Step::Leader, "holds no lease"),
    }
}

fn serve(plan: &mut Plan<'_>, lease: Lease) -> Flow {
    let seen = plan.seen;
    match &seen.local.server {
        Server::Stopped { .. } => start_again(plan, lease),
        Server::Dying { .. } => {
            // Orphans of a dead postmaster may still commit and keep a new one from starting.
            plan.memory.down_since.get_or_insert(seen.now);
            plan.begin(OperationKind::Stop { mode: StopMode::Kill });
            plan.taken(Step::Leader, "the postmaster is gone: kills what is left of it")
        }
        Server::Running { guarded: false, .. } => release(plan, lease, "the server was not started by the guard"),
        Server::Running { answer: Answer::Starting, .. } => wait_for_server(plan, lease, "the server is starting"),
        Server::Running { answer: Answer::Silent { .. }, .. } => {
            wait_for_server(plan, lease, "the server does not answer")
        }
        Server::Running { answer: Answer::Standby(_), .. } => promote(plan, lease),
        Server::Running { answer: Answer::Primary(status), .. } => keep(plan, lease, status),
    }
}

/// The server of the holder is down: it comes back in place, on the same timeline, under the same lease.
fn start_again(plan: &mut Plan<'_>, lease: Lease) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    let was_primary = match &seen.local.directory {
        Directory::Incomplete { .. } => plan.memory.made_here,
        Directory::Database(database) => {
            matches!(database.state, ControlState::InProduction | ControlState::ShutDown)
                || plan.memory.reign == Some(lease.epoch)
        }
        _ => false,
    };
    if !was_primary {
        return release(plan, lease, "the server stopped before it was promoted");
    }
    let new_cluster = matches!(seen.local.directory, Directory::Incomplete { .. });
    let down_since = *plan.memory.down_since.get_or_insert(seen.now);
    let down_for = seen.now.since(down_since);
    let limit = patience::limit(plan);
    if seen.finished.as_ref().is_some_and(|finished| matches!(finished.kind, OperationKind::StartPrimary { .. })) {
        // It was tried.
        plan.memory.resumes = false;
    }
    // Whoever restarts it by order wants it started at least once, and what a handover stopped was not lost.
    let over = down_for >= limit && !(limit.is_zero() && (seen.orders.restart || plan.memory.resumes));
    let mut alone = String::new();
    if plan.memory.gave_up || over && !new_cluster {
        let what = if plan.memory.gave_up {
            format!("gave up on the server after {} s", down_for.as_secs())
        } else {
            format!("the server is down for {} s, its limit is {} s", down_for.as_secs(), limit.as_secs())
        };
        match patience::relief(plan) {
            Relief::By(name) => return release(plan, lease, format!("{what}, {name} could lead")),
            Relief::Asked => return plan.blocked(Step::Leader, format!("{what}: asks who could lead instead")),
            Relief::Nobody(why) => alone = format!("; {what}, but nobody could lead instead: {why}"),
        }
    }
    if !seen.guard.armed && !settings.paused {
        plan.wake_after(CHANGE_POLL);
        return plan.blocked(Step::Leader, "waits for the guard to be armed before it starts the server");
    }
    if let Some(why) = plan.failed_lately(RESTART_PAUSE, |kind| matches!(kind, OperationKind::StartPrimary { .. })) {
        return plan.blocked(Step::Leader, why);
    }
    if ends_soon(plan, lease) {
        return plan.blocked(Step::Leader, "waits for the lease to be renewed before it starts the server");
    }
    plan.begin(OperationKind::StartPrimary { epoch: lease.epoch });
    plan.taken(Step::Leader, format!("starts the server as primary in {}{alone}", lease.epoch))
}

/// What is left of the lease is the time for stopping a server. What its clients wrote meanwhile no standby might get.
fn ends_soon(plan: &mut Plan<'_>, lease: Lease) -> bool {
    let soon = plan.seen.now.reached(soft_deadline(lease.deadline, lease.granted)) && !plan.settings.paused;
    if soon {
        plan.wake_after(CHANGE_POLL);
    }
    soon
}

fn wait_for_server(plan: &mut Plan<'_>, lease: Lease, what: &str) -> Flow {
    let seen = plan.seen;
    let since = match &seen.local.server {
        Server::Running { answer: Answer::Silent { since }, .. } => *since,
        Server::Running { since, .. } => *plan.memory.down_since.get_or_insert(*since),
        _ => seen.now,
    };
    let waited = seen.now.since(since);
    match patience::give_up(plan, since) {
        Patience::Over(name) => {
            let why = format!("{what} for {} s, {name} could lead: kills it", waited.as_secs());
            plan.taken(Step::Leader, why)
        }
        Patience::Waits(alone) => {
            plan.wake_after(CHANGE_POLL);
            let alone = alone.map(|why| format!("; {why}")).unwrap_or_default();
            let why = format!("{what} for {} ms; the lease of {} is kept{alone}", waited.as_millis(), lease.epoch);
            plan.blocked(Step::Leader, why)
        }
    }
}

fn promote(plan: &mut Plan<'_>, lease: Lease) -> Flow {
    let seen = plan.seen;
    let failed = seen.finished.as_ref().and_then(|finished| match (&finished.kind, &finished.outcome) {
        (OperationKind::Promote { epoch, .. }, Outcome::Failed(why)) if *epoch == lease.epoch => Some(why.clone()),
        _ => None,
    });
    if let Some(why) = failed {
        // It may still come through: only a server that is gone cannot become a primary any more.
        plan.begin(OperationKind::Stop { mode: StopMode::Kill });
        return plan
            .taken(Step::Leader, format!("the promotion failed ({why}): kills the server, then gives the lease back"));
    }
    if !seen.guard.armed && !plan.settings.paused {
        plan.wake_after(CHANGE_POLL);
        return plan.blocked(Step::Leader, "waits for the guard to be armed before it promotes");
    }
    if seen.store.as_of.is_none() && plan.memory.reserved.is_none() {
        return plan.blocked(Step::Leader, "waits for the store to tell the timeline number for the promotion");
    }
    let timeline = plan.memory.reserved.or(seen.store.cluster.reserved.map(|reservation| reservation.timeline));
    let Some(timeline) = timeline else {
        return release(plan, lease, "no timeline number is reserved for a promotion");
    };
    // It has followed somebody who was promoted by hand since the number was chosen: it would take the next one, which is nobody's.
    if let Some(own) = seen.standby().map(|standby| standby.history.timeline())
        && own >= timeline
    {
        return release(plan, lease, format!("the server is on timeline {own} already, and {timeline} is reserved"));
    }
    if ends_soon(plan, lease) {
        return plan.blocked(Step::Leader, "waits for the lease to be renewed before it promotes");
    }
    plan.begin(OperationKind::Promote { epoch: lease.epoch, timeline, proven: plan.memory.handed_over });
    plan.taken(Step::Leader, format!("promotes the server in {} to timeline {timeline}", lease.epoch))
}

/// All is as it should be: publish, keep slots, serve requests.
fn keep(plan: &mut Plan<'_>, lease: Lease, status: &PrimaryStatus) -> Flow {
    let seen = plan.seen;
    let cluster = &seen.store.cluster;
    plan.memory.reign = Some(lease.epoch);
    plan.memory.down_since = None;
    plan.memory.gave_up = false;
    plan.memory.resumes = false;
    plan.memory.handed_over = false;
    if let Directory::Incomplete { work: Work::Bootstrap } = seen.local.directory {
        if let Some(why) =
            plan.failed_lately(RESTART_PAUSE, |kind| matches!(kind, OperationKind::FinishBootstrap { .. }))
        {
            return plan.blocked(Step::Leader, why);
        }
        plan.begin(OperationKind::FinishBootstrap { epoch: lease.epoch });
        return plan.taken(Step::Leader, "makes the roles of the new cluster");
    }
    if seen.store.as_of.is_none() {
        // An agent that was started again: what an unread store does not show may all be there.
        return plan.blocked(Step::Leader, "the server is the primary; the store has not been read yet");
    }
    // What is written under a key that the store does not show, because it has gone back or is not read yet, would be refused.
    if seen.shows(lease) {
        if let Some(database) = seen.database()
            && !matches!(cluster.initialize, Initialize::Done(_))
        {
            plan.act(Action::RecordInitialize { system_id: database.system_id, epoch: lease.epoch });
        }
        plan.act(Action::PublishPosition { position: status.position });
        if seen.reign_is_untold(lease) || cluster.history.as_ref() != Some(&status.history) {
            plan.act(Action::PublishHistory { history: status.history.clone() });
        }
    }
    plan.act(Action::SetSlots { members: seen.other_members().cloned().collect::<Vec<MemberName>>() });
    if let Some(request) = &cluster.failover
        && request.candidate.as_ref() == Some(&seen.me)
        && (request.handed_over || request.leader.as_ref() != Some(&seen.me))
    {
        plan.act(Action::ClearFailover { revision: request.revision, why: "the candidate leads".to_owned() });
    } else if cluster.failover.is_some() && switchover::begin(plan, lease) == Flow::Settled {
        return Flow::Settled;
    }
    plan.taken(
        Step::Leader,
        format!("the server is the primary in {} on timeline {}", lease.epoch, status.history.timeline()),
    )
}

/// Gives the lease back, after the server has been stopped if one runs.
pub(crate) fn release(plan: &mut Plan<'_>, lease: Lease, why: impl Into<String>) -> Flow {
    let seen = plan.seen;
    let why = why.into();
    plan.end_reign();
    if seen.may_be_primary(&plan.memory, plan.settings) {
        plan.renew = false;
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan.taken(Step::Leader, format!("{why}: stops the server, then gives the lease back"));
    }
    plan.memory.handover = None;
    plan.memory.failures.count += 1;
    // Whoever gave a lease back because of its own server lets the others go first.
    plan.memory.failures.not_before = seen.now + plan.settings.ttl;
    plan.act(Action::ReleaseLease { created: lease.created, successor: None });
    plan.taken(Step::Leader, format!("{why}: gives the lease back"))
}

/// The timeline number that an acquisition reserves: above every one that was given out and above the own one.
pub(crate) fn next_timeline(plan: &Plan<'_>) -> TimelineId {
    let own = plan.seen.position().map_or(TimelineId(0), |(history, _)| history.timeline());
    let cluster = &plan.seen.store.cluster;
    let published = cluster.history.as_ref().map_or(TimelineId(0), TimelineHistory::timeline);
    if plan.settings.bugs.has(crate::bugs::Bug::Patroni890) {
        return own.next();
    }
    // A store that was wiped has forgotten what it gave out; the copies have not.
    let peers = plan.seen.peers.values().filter_map(|answer| answer.history.as_ref()).map(TimelineHistory::timeline);
    let hosts = plan.seen.store.listed.iter().filter_map(|listed| listed.host.as_ref()?.timeline);
    let elsewhere = peers.chain(hosts).max().unwrap_or(TimelineId(0));
    let reserved = cluster.reserved.map_or(TimelineId(0), |reservation| reservation.timeline);
    // And one that was restored from an older copy what its members have seen in it.
    let given = plan.seen.peers.values().map(|answer| answer.timeline_given).max().flatten();
    let given = given.max(plan.memory.timeline_given).unwrap_or(TimelineId(0));
    own.max(published).max(reserved).max(elsewhere).max(given).next()
}

/// The highest epoch that any member is known to have seen.
pub(crate) fn highest_promise(plan: &Plan<'_>) -> Epoch {
    let seen = plan.seen;
    let peers = seen.peers.values().map(|answer| answer.promised);
    let hosts = seen.store.listed.iter().filter_map(|listed| listed.host.as_ref()).map(|host| host.promised);
    peers.chain(hosts).max().unwrap_or_default().max(plan.memory.promised)
}
