//! Handing over without losing a commit: the candidate makes itself ready, the server is stopped, the candidate proves
//! that it holds the shutdown checkpoint, and only then is the lease given to it. In every other case the server starts
//! again as the primary, and whoever asked is told why.

use std::time::Duration;

use pgbaton_types::{MemberName, ShutdownCheckpoint};

use crate::decision::{Action, CHECKPOINT_TIME, OperationKind, StopMode};
use crate::election::{Candidate, better_than};
use crate::lease::soft_deadline;
use crate::memory::{Handover, HandoverPhase, Pausing, Yielded};
use crate::observation::{ControlState, FailoverRequest, Lease, Observation, Outcome, PeerAnswer, PoolerFacts};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::settings::WithoutPause;

/// How long members may take to say whether they can lead, while clients still write.
const CHOOSE_TIME: Duration = Duration::from_secs(2);
/// How long the candidate may take to make itself ready, while clients still write: longer than it takes to end a
/// query that blocks its replay, shorter than an operator's patience.
const PREPARE_TIME: Duration = Duration::from_secs(5);
/// A candidate further behind than this, in bytes, is not ready: what is missing has to be sent while nobody can write.
const READY_LAG_MAX: u64 = 1 << 20;
/// How long the candidate may take to prove, while nobody can write. Of the second that a refusal may cost it leaves
/// more than half to the shutdown before it and to the start of the old primary after it.
const PROOF_TIME: Duration = Duration::from_millis(400);
/// A question without an answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The holder's server runs and a request is there: begin with it, or say why not.
pub(crate) fn begin(plan: &mut Plan<'_>, lease: Lease) -> Flow {
    let seen = plan.seen;
    let Some(request) = &seen.store.cluster.failover else { return Flow::Pass };
    if request.leader.as_ref().is_some_and(|leader| *leader != seen.me) {
        return refuse(plan, "the leader that it names does not lead");
    }
    if request.handed_over {
        return refuse(plan, "it was a handover that came to nothing");
    }
    if let Some((revision, why)) = plan.memory.refused.clone()
        && revision == request.revision
    {
        return refuse(plan, &why);
    }
    if request.candidate.as_ref() == Some(&seen.me) {
        return refuse(plan, "the candidate leads already");
    }
    if let Some(due) = request.due
        && !seen.now.reached(due)
    {
        plan.wake_at_latest(due);
        plan.pass(Step::Switchover, format!("a switchover is due in {} s", due.since(seen.now).as_secs()));
        return Flow::Pass;
    }
    if let Some(candidate) = &request.candidate
        && !seen.store.cluster.members.contains_key(candidate)
    {
        return refuse(plan, &format!("there is no member {candidate}"));
    }
    let candidate = request.candidate.clone();
    choose(plan, candidate, lease)
}

/// The agent ends: the same way, to whoever can lead; without such a member, or when it takes too long, the caller stops
/// the server and gives the lease back.
pub(crate) fn for_termination(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if plan.memory.handover.is_some() {
        return step(plan);
    }
    if std::mem::replace(&mut plan.memory.ending, true) {
        return Flow::Pass;
    }
    match seen.valid_lease(plan.settings) {
        Some(lease) if seen.other_members().next().is_some() => choose(plan, None, lease),
        _ => Flow::Pass,
    }
}

fn choose(plan: &mut Plan<'_>, candidate: Option<MemberName>, lease: Lease) -> Flow {
    let seen = plan.seen;
    plan.memory.last_handover = None;
    plan.memory.handover = Some(Handover {
        epoch: lease.epoch,
        candidate,
        phase: HandoverPhase::Choosing,
        since: seen.now,
        asked: seen.now,
    });
    plan.act(Action::AskPeers { members: seen.other_members().cloned().collect() });
    plan.wake_after(ASK_AGAIN);
    plan.taken(Step::Switchover, format!("hands over the lease of {}: asks who can lead", lease.epoch))
}

/// The next step of the handover under way.
pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let Some(handover) = plan.memory.handover.clone() else { return Flow::Pass };
    let Some(lease) = plan.seen.valid_lease(plan.settings) else {
        plan.memory.handover = None;
        return Flow::Pass;
    };
    match &handover.phase {
        HandoverPhase::Choosing => choosing(plan, &handover, lease),
        HandoverPhase::Preparing => preparing(plan, &handover, lease),
        HandoverPhase::Stopping => stopping(plan, &handover),
        HandoverPhase::Proving { checkpoint, since } => proving(plan, &handover, *checkpoint, *since, lease),
        HandoverPhase::Resuming => resuming(plan),
    }
}

fn choosing(plan: &mut Plan<'_>, handover: &Handover, lease: Lease) -> Flow {
    let seen = plan.seen;
    let named = handover.candidate.clone();
    let wanted: Vec<MemberName> = match &named {
        Some(name) => vec![name.clone()],
        None => seen.other_members().cloned().collect(),
    };
    let answered: Vec<(&MemberName, &PeerAnswer)> =
        wanted.iter().filter_map(|name| seen.peer_since(name, handover.since).map(|answer| (name, answer))).collect();
    let late = seen.now.since(handover.since) >= CHOOSE_TIME;
    if answered.len() < wanted.len() && !late {
        return ask_again(plan, handover, wanted);
    }
    let Some(candidate) = best(plan, &answered) else {
        let reasons: Vec<String> = wanted.iter().map(|name| reason_against(name, &answered)).collect();
        return call_off(plan, &format!("nobody can take over: {}", reasons.join("; ")));
    };
    plan.act(Action::PrepareCandidate { candidate: candidate.clone(), epoch: lease.epoch });
    plan.act(Action::Checkpoint);
    plan.wake_after(ASK_AGAIN);
    let text = format!("asks {candidate} to make itself ready");
    plan.memory.handover = Some(Handover {
        epoch: lease.epoch,
        candidate: Some(candidate),
        phase: HandoverPhase::Preparing,
        since: seen.now,
        asked: seen.now,
    });
    plan.taken(Step::Switchover, text)
}

/// The most advanced of those that can lead.
fn best(plan: &Plan<'_>, answered: &[(&MemberName, &PeerAnswer)]) -> Option<MemberName> {
    let candidates: Vec<Candidate> = answered
        .iter()
        .filter(|(_, answer)| answer.unfit.is_none())
        .filter_map(|(name, answer)| {
            let history = answer.history.clone()?;
            Some(Candidate { member: (*name).clone(), history, position: answer.position, priority: answer.priority })
        })
        .collect();
    let bugs = plan.settings.bugs;
    candidates.iter().find(|one| better_than(one, &candidates, bugs).is_none()).map(|one| one.member.clone())
}

/// Why a member cannot lead.
pub(crate) fn reason_against(name: &MemberName, answered: &[(&MemberName, &PeerAnswer)]) -> String {
    match answered.iter().find(|(other, _)| *other == name) {
        None => format!("{name} does not answer"),
        Some((_, answer)) => format!("{name}: {}", answer.unfit.as_deref().unwrap_or("its server gives no position")),
    }
}

fn preparing(plan: &mut Plan<'_>, handover: &Handover, lease: Lease) -> Flow {
    let seen = plan.seen;
    let Some(candidate) = handover.candidate.clone() else { return call_off(plan, "no candidate was chosen") };
    let own_position = seen.primary().map_or(pgbaton_types::Lsn::INVALID, |primary| primary.position);
    let answer = seen.peer_since(&candidate, handover.since);
    let prepared = answer.filter(|answer| answer.prepared == Some(lease.epoch));
    let ready = prepared.is_some_and(|answer| own_position.bytes_ahead_of(answer.position) <= READY_LAG_MAX);
    if !ready {
        // While poolers are asked, clients of others go on writing, and after a checkpoint there is more WAL (full pages) for a while: the
        // candidate may be behind for a moment.
        let asked = plan.memory.pausing.map_or(Duration::ZERO, |_| plan.settings.pause_within);
        let limit = PREPARE_TIME + asked + prepared.map_or(Duration::ZERO, |_| CHECKPOINT_TIME);
        if seen.now.since(handover.since) >= limit {
            return call_off(plan, &format!("{candidate} could not make itself ready in {} s", limit.as_secs()));
        }
        prepare_again(plan, handover, &candidate, lease);
        return plan.blocked(Step::Switchover, format!("waits until {candidate} is ready"));
    }
    // Before poolers are asked: their clients wait from then on.
    let checkpointed = seen.checkpoint.is_some_and(|asked| asked >= handover.since);
    let left = CHECKPOINT_TIME.saturating_sub(seen.now.since(handover.since));
    if plan.memory.pausing.is_none() && !checkpointed && !left.is_zero() {
        prepare_again(plan, handover, &candidate, lease);
        plan.wake_after(left);
        return plan.blocked(Step::Switchover, "waits for the checkpoint, so that the shutdown is short");
    }
    let left = soft_deadline(lease.deadline, lease.granted).since(seen.now);
    if left < PROOF_TIME * 2 {
        plan.wake_after(ASK_AGAIN);
        return plan.blocked(Step::Switchover, "waits for the lease to be renewed before it stops the server");
    }
    let but = match poolers(plan, lease) {
        Poolers::Hold => String::new(),
        Poolers::Awaited(text) => {
            prepare_again(plan, handover, &candidate, lease);
            return plan.blocked(Step::Switchover, text);
        }
        Poolers::DoNot(names) if plan.settings.without_pause == WithoutPause::CallOff => {
            return call_off(plan, &format!("{names} did not hold its clients"));
        }
        Poolers::DoNot(names) => format!(", although {names} did not hold its clients"),
    };
    update(plan, |handover, now| {
        handover.phase = HandoverPhase::Stopping;
        handover.since = now;
    });
    plan.begin(OperationKind::Stop { mode: StopMode::Handover });
    plan.taken(Step::Switchover, format!("{candidate} is ready: stops the server{but}"))
}

/// Where the candidate is must be known as it is now.
fn prepare_again(plan: &mut Plan<'_>, handover: &Handover, candidate: &MemberName, lease: Lease) {
    if plan.seen.now.since(handover.asked) >= ASK_AGAIN {
        plan.act(Action::PrepareCandidate { candidate: candidate.clone(), epoch: lease.epoch });
        update(plan, |handover, now| handover.asked = now);
    }
    plan.wake_after(ASK_AGAIN);
}

/// What the poolers do when they are asked to hold their clients.
enum Poolers {
    /// All do, or there is none.
    Hold,
    /// Not all have answered yet.
    Awaited(String),
    /// These cannot, or have not answered in time.
    DoNot(String),
}

/// Asks those that are there, once the candidate is ready: their clients wait for as short as can be.
fn poolers(plan: &mut Plan<'_>, lease: Lease) -> Poolers {
    let seen = plan.seen;
    let known = &seen.store.cluster.poolers;
    let within = plan.settings.pause_within;
    if known.is_empty() || within.is_zero() {
        return Poolers::Hold;
    }
    let names = |wanted: &dyn Fn(&PoolerFacts) -> bool| {
        let names = known.iter().filter(|(_, facts)| wanted(facts)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let Some(pausing) = plan.memory.pausing.filter(|pausing| pausing.epoch == lease.epoch) else {
        plan.memory.pausing = Some(Pausing { epoch: lease.epoch, since: seen.now });
        plan.wake_after(within);
        return Poolers::Awaited(format!("asks {} to hold its clients", names(&|_| true)));
    };
    let answered = |facts: &PoolerFacts| facts.answered == Some(pausing.since);
    let silent = names(&|facts| !answered(facts));
    let failed = names(&|facts| answered(facts) && !facts.holds);
    let gives_up = !failed.is_empty() && plan.settings.without_pause == WithoutPause::CallOff;
    let left = within.saturating_sub(seen.now.since(pausing.since));
    if !silent.is_empty() && !left.is_zero() && !gives_up {
        plan.wake_after(left);
        return Poolers::Awaited(format!("waits until {silent} holds its clients"));
    }
    let none = if gives_up { failed } else { names(&|facts| !answered(facts) || !facts.holds) };
    if none.is_empty() { Poolers::Hold } else { Poolers::DoNot(none) }
}

/// Poolers let their clients go on as soon as they are not asked any more: when the server takes writes again, or somebody else leads.
pub(crate) fn release_poolers(plan: &mut Plan<'_>) {
    let Some(pausing) = plan.memory.pausing else { return };
    let later = plan.seen.store.cluster.leader.as_ref().is_some_and(|leader| leader.epoch > pausing.epoch);
    let goes_on = plan.memory.handover.is_none() && !plan.seen.orders.terminate && plan.seen.primary().is_some();
    if later || goes_on {
        plan.memory.pausing = None;
    }
}

fn stopping(plan: &mut Plan<'_>, handover: &Handover) -> Flow {
    let seen = plan.seen;
    let result = seen.finished.as_ref().filter(|finished| {
        finished.kind == OperationKind::Stop { mode: StopMode::Handover } && finished.at >= handover.since
    });
    let (Some(finished), Some(candidate)) = (result, handover.candidate.clone()) else {
        // The operation is not under way any more and left no result of its own: whatever happened, the server is not
        // known to be shut down.
        return resume(plan, "the stop gave no result");
    };
    match &finished.outcome {
        Outcome::ShutDown(checkpoint) => {
            let checkpoint = *checkpoint;
            update(plan, |handover, now| {
                handover.phase = HandoverPhase::Proving { checkpoint, since: now };
                handover.asked = now;
            });
            plan.act(Action::AskProof { candidate: candidate.clone(), checkpoint });
            plan.wake_after(ASK_AGAIN);
            plan.taken(Step::Switchover, format!("the server is shut down: asks {candidate} for the {checkpoint}"))
        }
        Outcome::Failed(why) => {
            let why = format!("the server did not stop: {why}");
            resume(plan, &why)
        }
        Outcome::Done => resume(plan, "the stop gave no shutdown checkpoint"),
    }
}

fn proving(
    plan: &mut Plan<'_>,
    handover: &Handover,
    checkpoint: ShutdownCheckpoint,
    since: pgbaton_types::BootTime,
    lease: Lease,
) -> Flow {
    let seen = plan.seen;
    let Some(candidate) = handover.candidate.clone() else { return resume(plan, "no candidate was chosen") };
    if goes_on_after(seen, &checkpoint) {
        return call_off(plan, "the server was started again before anybody had proven anything");
    }
    let proof = seen.peers.get(&candidate).and_then(|answer| answer.proof).filter(|(record, _)| *record == checkpoint);
    match proof {
        Some((_, true)) => {
            plan.act(Action::ReleaseLease { created: lease.created, successor: Some(candidate.clone()) });
            plan.memory.yielded =
                Some(Yielded { successor: candidate.clone(), epoch: lease.epoch, end: checkpoint.end, at: seen.now });
            plan.memory.handover = None;
            plan.memory.last_handover = None;
            plan.taken(
                Step::Switchover,
                format!("{candidate} holds the {checkpoint}: gives the lease of {} to it", lease.epoch),
            )
        }
        Some((_, false)) => resume(plan, &format!("{candidate} does not hold the {checkpoint}")),
        None if seen.now.since(since) >= PROOF_TIME => resume(
            plan,
            &format!("{candidate} did not prove in {} ms that it holds everything", PROOF_TIME.as_millis()),
        ),
        None => {
            if seen.now.since(handover.asked) >= ASK_AGAIN {
                plan.act(Action::AskProof { candidate: candidate.clone(), checkpoint });
                update(plan, |handover, now| handover.asked = now);
            }
            plan.wake_after(ASK_AGAIN);
            plan.blocked(Step::Switchover, format!("waits for {candidate} to prove that it holds the {checkpoint}"))
        }
    }
}

/// The checkpoint is not the last record any more: the server runs again, or has run, by somebody else's hand.
fn goes_on_after(seen: &Observation, checkpoint: &ShutdownCheckpoint) -> bool {
    let written = seen.database().is_some_and(|database| {
        database.state != ControlState::ShutDown || database.end.is_some_and(|end| end != checkpoint.end)
    });
    written || seen.primary().is_some()
}

/// The server was stopped but nobody may take over: it is the primary again as soon as it is up.
fn resume(plan: &mut Plan<'_>, why: &str) -> Flow {
    plan.memory.last_handover = Some(why.to_owned());
    if plan.seen.orders.terminate {
        // The agent ends anyway: nothing is started again; the lease is released once all is stopped.
        close_request(plan, why);
        plan.memory.handover = None;
        return Flow::Pass;
    }
    // The store is told when the server is up: nobody waits for it while nobody can write.
    plan.memory.resumes = true;
    plan.memory.refused = served(plan.seen).map(|request| (request.revision, why.to_owned()));
    if plan.seen.stopped() {
        plan.memory.handover = None;
        return Flow::Pass;
    }
    update(plan, |handover, _| handover.phase = HandoverPhase::Resuming);
    plan.begin(OperationKind::Stop { mode: StopMode::Kill });
    plan.taken(Step::Switchover, format!("called off: {why}; the server starts again as the primary"))
}

fn resuming(plan: &mut Plan<'_>) -> Flow {
    if plan.seen.stopped() || plan.seen.primary().is_some() {
        plan.memory.handover = None;
        return Flow::Pass;
    }
    plan.begin(OperationKind::Stop { mode: StopMode::Kill });
    plan.taken(Step::Switchover, "kills what is left of the server, to start it again")
}

/// Clients never noticed: the server goes on.
fn call_off(plan: &mut Plan<'_>, why: &str) -> Flow {
    close_request(plan, why);
    plan.memory.handover = None;
    plan.memory.last_handover = Some(why.to_owned());
    if plan.seen.orders.terminate {
        return Flow::Pass;
    }
    plan.memory.pausing = None;
    plan.taken(Step::Switchover, format!("called off: {why}"))
}

fn refuse(plan: &mut Plan<'_>, why: &str) -> Flow {
    close_request(plan, why);
    plan.memory.last_handover = Some(why.to_owned());
    plan.pass(Step::Switchover, format!("refused: {why}"))
}

/// Takes the request away that this handover served, so that whoever asked sees its end; one for later stays.
fn close_request(plan: &mut Plan<'_>, why: &str) {
    if let Some(request) = served(plan.seen) {
        plan.act(Action::ClearFailover { revision: request.revision, why: why.to_owned() });
    }
}

/// The request that is due.
fn served(seen: &Observation) -> Option<&FailoverRequest> {
    seen.store.cluster.failover.as_ref().filter(|request| request.due.is_none_or(|due| seen.now.reached(due)))
}

fn ask_again(plan: &mut Plan<'_>, handover: &Handover, members: Vec<MemberName>) -> Flow {
    if plan.seen.now.since(handover.asked) >= ASK_AGAIN {
        plan.act(Action::AskPeers { members });
        update(plan, |handover, now| handover.asked = now);
    }
    plan.wake_after(ASK_AGAIN);
    plan.blocked(Step::Switchover, "waits for the members to say whether they can lead")
}

fn update(plan: &mut Plan<'_>, change: impl FnOnce(&mut Handover, pgbaton_types::BootTime)) {
    let now = plan.seen.now;
    if let Some(handover) = &mut plan.memory.handover {
        change(handover, now);
    }
}

/// A planned handover names this member, and the old holder had its proof.
pub(crate) fn handed_to_me(seen: &Observation) -> bool {
    seen.store
        .cluster
        .failover
        .as_ref()
        .is_some_and(|request| request.handed_over && request.candidate.as_ref() == Some(&seen.me))
}
