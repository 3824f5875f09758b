//! What an operator asks of this very member.

use crate::decision::{OperationKind, QuarantineReason, StopMode};
use crate::observation::Directory;
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::follower::leader_is_up;
use crate::steps::rejoin;

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if seen.orders.reinitialize {
        return reinitialize(plan);
    }
    if seen.orders.restart && !seen.stopped() {
        // What starts it again is the leader's or the follower's step; the executor takes the order off once it is up.
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan.taken(Step::Order, "a restart was asked for: stops the server");
    }
    plan.pass(Step::Order, "nothing was asked for")
}

fn reinitialize(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if seen.lease.is_some() {
        return plan.pass(Step::Order, "a holder of the lease is not rebuilt");
    }
    let holder = seen.other_holder().filter(|leader| seen.view_is_fresh(plan.settings) && leader_is_up(plan, leader));
    let Some(leader) = holder.cloned() else {
        // The order waits; this member may be the one that has to lead, or hold the only copy.
        return plan.pass(Step::Order, "a new clone was asked for, but no leader runs to clone from");
    };
    let says_so = rejoin::leader_answer(plan, &leader).is_some_and(|answer| answer.primary);
    if !says_so && seen.local.directory != Directory::Empty {
        // Its keys outlive it: its server, or its data, may be gone since, and this may be the last copy.
        rejoin::ask_leader(plan, &leader);
        let why = format!("a new clone was asked for: asks {} whether it runs", leader.member);
        return if seen.stopped() { plan.blocked(Step::Order, why) } else { plan.pass(Step::Order, why) };
    }
    if !seen.stopped() {
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan.taken(Step::Order, "a new clone was asked for: stops the server");
    }
    match &seen.local.directory {
        Directory::Empty => plan.pass(Step::Order, "the data directory is put away; a clone follows"),
        Directory::Unreadable { error } => {
            plan.blocked(Step::Order, format!("the data directory cannot be read: {error}"))
        }
        Directory::Foreign { found } => {
            plan.blocked(Step::Order, format!("the data directory is not a database: {found}"))
        }
        Directory::Incomplete { .. } | Directory::Database(_) => {
            plan.begin(OperationKind::Quarantine { why: QuarantineReason::Ordered });
            plan.taken(Step::Order, "a new clone was asked for: puts the data directory away")
        }
    }
}
