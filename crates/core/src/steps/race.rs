//! Nobody holds the lease: the members are asked for their positions, and the most advanced of those that can be
//! reached takes it. Nobody waits for the former holder, and for no one longer than [`ASK_TIME`].

use std::time::Duration;

use pgbaton_types::{BootTime, Epoch, MemberName, SystemId, TimelineId};

use crate::bugs::Bug;
use crate::decision::Action;
use crate::election::{Candidate, better_than};
use crate::facts::vote_position;
use crate::memory::Race;
use crate::observation::{
    ControlState, Directory, FailoverRequest, Initialize, Observation, PeerAnswer, Server, StandbyStatus, Work,
};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::leader::{highest_promise, next_timeline};
use crate::steps::switchover::handed_to_me;
use crate::steps::{bootstrap, follower};

/// How long the members may take to say how far they are. Who has not answered by then is absent.
const ASK_TIME: Duration = Duration::from_millis(300);
/// How long the answers are compared with the own position, which may grow while theirs do not: as long as one round of
/// questions takes, and the decisions after it on a loaded machine.
const ANSWERS_FOR: Duration = Duration::from_millis(600);
/// How long the others leave the lease to a candidate that it was given to.
const GRACE_FOR_SUCCESSOR: Duration = Duration::from_secs(2);

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if seen.store.cluster.leader.is_some() {
        return plan.pass(Step::Race, "somebody holds the lease");
    }
    if !seen.view_is_fresh(settings) {
        let why = seen.store_silence();
        // Only the store tells whether the data is this cluster's, and another one's must not be touched: it is given the time of one
        // operation for its first answer.
        if let Server::Stopped { since } = seen.local.server
            && seen.store.as_of.is_none()
            && seen.now.since(since) < settings.retry_timeout
        {
            return plan.blocked(Step::Race, why);
        }
        // Then the server may come up all the same: as a standby it harms nobody.
        if follower::start_without_leader(plan) == Flow::Settled {
            return Flow::Settled;
        }
        return plan.blocked(Step::Race, why);
    }
    match &seen.local.directory {
        Directory::Empty | Directory::Incomplete { work: Work::Bootstrap } if seen.stopped() => {
            return bootstrap::step(plan);
        }
        Directory::Empty => return follower::without_data(plan),
        // Nobody knows whose data it is, so not even an operator's word makes it a primary.
        Directory::Unreadable { error } if !seen.stopped() => {
            return plan.blocked(Step::Race, format!("does not lead: the data directory cannot be read: {error}"));
        }
        _ => {}
    }
    if !matches!(seen.local.server, Server::Running { .. }) {
        return follower::without_leader(plan);
    }
    let named =
        seen.store.cluster.failover.as_ref().is_some_and(|request| request.candidate.as_ref() == Some(&seen.me));
    if settings.paused && !named {
        return plan.blocked(Step::Race, "paused: does not lead unless an operator names it");
    }
    if let Some(why) = plan.unfit.clone().filter(|_| !manual(seen)) {
        plan.memory.race = None;
        return plan.blocked(Step::Race, format!("does not lead: {why}"));
    }
    let Some(standby) = seen.standby() else {
        return plan.blocked(Step::Race, "does not lead: its server is not a standby that answers");
    };
    if seen.store.cluster.initialize == (Initialize::UnderWay { mine: true }) && !made_here(seen) {
        plan.act(Action::WithdrawClaim);
        let why =
            "this member has claimed to make the cluster, and its data was not made for that: withdraws its claim";
        return plan.taken(Step::Race, why);
    }
    if let Some(why) = no_history(plan) {
        return plan.blocked(Step::Race, why);
    }
    if let Some(end) = forgotten_lease_ends(plan) {
        plan.memory.race = None;
        plan.wake_at_latest(end);
        let why = "the store has gone back to an older copy: waits until a lease must have ended that it does not know any more";
        return plan.blocked(Step::Race, why);
    }
    run(plan, standby)
}

/// A member has seen an epoch that the store does not show: it is older news, or a copy that was put in its place.
fn knows_less(plan: &mut Plan<'_>) -> Option<String> {
    let store = &plan.seen.store;
    let highest = highest_promise(plan);
    let known = matches!(store.cluster.initialize, Initialize::Done(_));
    let at = Epoch::of(store.cluster.base, store.revision);
    if !known || highest <= at.max(plan.memory.store_forgot) {
        plan.memory.store_behind = None;
        return None;
    }
    let known_since = plan.memory.store_behind.filter(|(epoch, _)| *epoch >= highest).map(|(_, since)| since);
    let since = known_since.unwrap_or(plan.seen.now);
    plan.memory.store_behind = Some((highest, since));
    // What is read after somebody has said so shows what he had seen.
    if store.as_of.is_some_and(|as_of| as_of > since) {
        plan.memory.forgotten_by_store(highest, plan.seen.now);
    }
    Some(format!("a member has seen {highest}, which the store does not show: waits until it is read again"))
}

/// When a lease has surely ended that a store has forgotten: it was renewed for the last time before the store went back.
fn forgotten_lease_ends(plan: &Plan<'_>) -> Option<BootTime> {
    let end = plan.memory.store_went_back? + plan.memory.longest_ttl;
    // What a wiped store has forgotten every listed host is asked for.
    let known = matches!(plan.seen.store.cluster.initialize, Initialize::Done(_));
    (known && !plan.seen.now.reached(end)).then_some(end)
}

/// An operator named this member in a manual failover, and so took the loss upon himself.
fn manual(seen: &Observation) -> bool {
    let named = |request: &FailoverRequest| {
        request.candidate.as_ref() == Some(&seen.me)
            && request.leader.is_none()
            && request.due.is_none_or(|due| seen.now.reached(due))
    };
    let guarded = matches!(seen.local.server, Server::Running { guarded: true, .. }) && seen.guard.alive;
    seen.store.cluster.failover.as_ref().is_some_and(named) && seen.standby().is_some() && guarded
}

fn run(plan: &mut Plan<'_>, standby: &StandbyStatus) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    if handed_to_me(seen) {
        plan.memory.handed_over = true;
        return acquire(plan, "the former holder gave it to this member, which holds everything");
    }
    plan.memory.handed_over = false;
    if seen.now < plan.memory.failures.not_before {
        plan.wake_at_latest(plan.memory.failures.not_before);
        return plan.blocked(Step::Race, "gave the lease back because of its own server: lets others go first");
    }
    let race = plan.memory.race.get_or_insert(Race::begin(seen)).clone();
    if let Some(why) = wait_for_named(seen, &race) {
        plan.wake_at_latest(race.since + GRACE_FOR_SUCCESSOR);
        return plan.blocked(Step::Race, why);
    }
    // Nobody waits for the former holder, but in a store that knows no cluster: it may have been wiped since it was read,
    // and show neither that holder's lease nor anybody else's.
    let known = matches!(seen.store.cluster.initialize, Initialize::Done(_));
    // A revision that goes back is a store that was wiped once more: what was said before tells of the other one.
    if race.asked < race.since || seen.store.revision < race.revision {
        return ask(plan);
    }
    let former = plan.memory.last_holder.clone().filter(|_| known);
    let awaited = |name: &&MemberName| Some(*name) != former.as_ref() && seen.peer_since(name, race.asked).is_none();
    if seen.now.since(race.asked) < ASK_TIME && seen.other_members().any(|name| awaited(&name)) {
        plan.wake_at_latest(race.asked + ASK_TIME);
        return plan.blocked(Step::Race, "waits for the members to say how far they are");
    }
    if seen.now.since(race.asked) > ANSWERS_FOR && seen.other_members().next().is_some() {
        return ask(plan);
    }
    if !known && let Some(silent) = seen.other_members().find(awaited) {
        let why = format!("the store does not know this cluster, and {silent} does not answer");
        return look_again(plan, why);
    }
    let answers: Vec<_> = seen
        .other_members()
        .filter_map(|name| seen.peer_since(name, race.asked).map(|answer| (name, answer)))
        .collect();
    if let Some((name, _)) = answers.iter().find(|(_, answer)| answer.primary)
        && !settings.bugs.has(Bug::Patroni2773)
    {
        let why = format!("{name} still runs as a primary");
        return look_again(plan, why);
    }
    if let Some(why) = knows_less(plan) {
        plan.wake_after(ASK_TIME);
        return plan.blocked(Step::Race, why);
    }
    if manual(seen) {
        return acquire(plan, "an operator asked for this member");
    }
    let fit = |answer: &PeerAnswer| answer.unfit.is_none() || settings.bugs.has(Bug::Patroni1054);
    let others = answers.iter().filter(|(_, answer)| fit(answer));
    let others: Vec<Candidate> = others.filter_map(|(name, answer)| candidate(name, answer)).collect();
    let own = Candidate {
        member: seen.me.clone(),
        history: standby.history.clone(),
        position: vote_position(settings, standby),
        priority: settings.failover_priority,
    };
    if let Some(better) = better_than(&own, &others, settings.bugs) {
        let why = format!(
            "{} goes first: it has received up to {}, this member up to {}",
            better.member, better.position, own.position
        );
        return look_again(plan, why);
    }
    acquire(plan, format!("the most advanced of {} that answered, at {}", others.len() + 1, own.position))
}

/// A member by what it said of itself; none if it said too little.
fn candidate(name: &MemberName, answer: &PeerAnswer) -> Option<Candidate> {
    let history = answer.history.clone()?;
    Some(Candidate { member: name.clone(), history, position: answer.position, priority: answer.priority })
}

impl Race {
    fn begin(seen: &Observation) -> Self {
        Self { since: seen.now, asked: BootTime::default(), revision: seen.store.revision }
    }
}

fn ask(plan: &mut Plan<'_>) -> Flow {
    let (now, revision) = (plan.seen.now, plan.seen.store.revision);
    if let Some(race) = &mut plan.memory.race {
        race.asked = now;
        race.revision = revision;
    }
    let members: Vec<MemberName> = plan.seen.other_members().cloned().collect();
    if !members.is_empty() {
        plan.act(Action::AskPeers { members });
    }
    if plan.seen.store.cluster.initialize == Initialize::Absent && !plan.seen.store.listed.is_empty() {
        plan.act(Action::AskListed);
    }
    plan.wake_after(if plan.seen.other_members().next().is_none() { Duration::ZERO } else { ASK_TIME });
    plan.taken(Step::Race, "nobody holds the lease: asks the members how far they are")
}

/// Whoever goes first may fail to: the question is asked anew after a while.
fn look_again(plan: &mut Plan<'_>, why: String) -> Flow {
    let (settings, now) = (plan.settings, plan.seen.now);
    if let Some(race) = &mut plan.memory.race
        && now.since(race.asked) >= settings.loop_wait
    {
        race.since = now;
    }
    plan.blocked(Step::Race, why)
}

fn wait_for_named(seen: &Observation, race: &Race) -> Option<String> {
    let request =
        seen.store.cluster.failover.as_ref().filter(|request| request.due.is_none_or(|due| seen.now.reached(due)))?;
    let candidate = request.candidate.as_ref()?;
    let waits = *candidate != seen.me
        && seen.now.since(race.since) < GRACE_FOR_SUCCESSOR
        && seen.store.cluster.members.contains_key(candidate);
    waits.then(|| format!("leaves the lease to {candidate}, whom the switchover names"))
}

fn acquire(plan: &mut Plan<'_>, why: impl Into<String>) -> Flow {
    let reserve = next_timeline(plan);
    plan.memory.reserved = Some(reserve);
    plan.memory.race = None;
    plan.memory.yielded = None;
    plan.act(Action::AcquireLease {
        reserve,
        reservation_seen: plan.seen.store.cluster.reserved.map(|reservation| reservation.revision),
        initialize_seen: plan.seen.store.cluster.initialize,
        identity: unknown_identity(plan.seen),
        ttl: plan.settings.ttl,
        above: highest_promise(plan),
    });
    plan.taken(Step::Race, why)
}

/// The identity of the own data, if the store does not know this cluster.
pub(crate) fn unknown_identity(seen: &Observation) -> Option<SystemId> {
    let unknown = seen.store.cluster.initialize == Initialize::Absent;
    seen.database().filter(|_| unknown).map(|database| database.system_id)
}

/// A paused primary whose key vanished takes it again, on the same timeline: the reservation shows that nobody else
/// has led since.
pub(crate) fn acquire_for_running_primary(plan: &Plan<'_>) -> Option<Action> {
    let seen = plan.seen;
    let reservation = seen.store.cluster.reserved?;
    let timeline: TimelineId = seen.primary()?.history.timeline();
    (reservation.timeline == timeline).then_some(Action::AcquireLease {
        reserve: timeline,
        reservation_seen: Some(reservation.revision),
        initialize_seen: plan.seen.store.cluster.initialize,
        identity: unknown_identity(plan.seen),
        ttl: plan.settings.ttl,
        above: highest_promise(plan),
    })
}

/// Nobody makes a cluster beside this member's claim, and it had no data when it claimed: a primary's data was made under it.
fn made_here(seen: &Observation) -> bool {
    matches!(seen.local.found, Some(ControlState::InProduction | ControlState::ShutDown))
}

/// A store that does not know this cluster says nothing about who leads: it makes a server with data a primary only when
/// every listed host was heard in this round of questions, and none can be one.
fn no_history(plan: &Plan<'_>) -> Option<String> {
    let seen = plan.seen;
    match seen.store.cluster.initialize {
        Initialize::Done(_) => return None,
        Initialize::UnderWay { mine: false } => return Some("another member is making the cluster".to_owned()),
        Initialize::UnderWay { mine: true } => return None,
        Initialize::Absent => {}
    }
    let Some(own) = seen.database().map(|database| database.system_id) else {
        return Some(
            "the store does not know this cluster, and the data directory of this member cannot be read".to_owned(),
        );
    };
    if seen.store.listed.is_empty() {
        let was_primary = matches!(seen.local.found, Some(ControlState::InProduction | ControlState::ShutDown));
        let alone = plan.memory.last_holder.as_ref() == Some(&seen.me) && !plan.memory.others_seen;
        let was_standby = !was_primary && !alone;
        return was_standby.then(|| {
            "the store does not know this cluster, it has no other voter, and the data was a standby's: a newer primary may \
             exist elsewhere"
                .to_owned()
        });
    }
    // Between an answer and what is done by it another member may lead, and the store be wiped once more: the shorter, the better.
    let asked = plan.memory.race.as_ref().map(|race| race.asked);
    for listed in &seen.store.listed {
        let address = &listed.address;
        let Some(host) = listed.heard(seen.now).filter(|_| listed.asked >= asked) else {
            return Some(format!(
                "the store does not know this cluster, and {address} does not say whether a primary runs there"
            ));
        };
        if host.system_id.is_some_and(|system_id| system_id != own) {
            return Some(format!("the store does not know this cluster, and {address} holds the data of another one"));
        }
        if host.primary_may_run {
            return Some(format!("the store does not know this cluster, and a primary may run at {address}"));
        }
        if !host.lease_left.is_zero() {
            return Some(format!(
                "the store does not know this cluster; a lease known to {address} runs for {} s more",
                host.lease_left.as_secs()
            ));
        }
    }
    None
}
