//! What an operator asks of this very member.

use crate::decision::{OperationKind, QuarantineReason, StopMode};
use crate::observation::Directory;
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::follower::leader_is_up;

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
    // By an old view the leader may have gone since, with the last copy but this one.
    let source =
        seen.view_is_fresh(plan.settings) && seen.other_holder().is_some_and(|leader| leader_is_up(plan, leader));
    if !source {
        // The order waits; this member may be the one that has to lead, or hold the only copy.
        return plan.pass(Step::Order, "a new clone was asked for, but no leader runs to clone from");
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
