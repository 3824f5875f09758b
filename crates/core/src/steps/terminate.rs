//! The agent was told to end: hand over, stop, release, leave.

use crate::decision::{Action, Disarm, EXIT_LEAVES, OperationKind, StopMode};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::switchover;

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    if !seen.orders.terminate {
        return plan.pass(Step::Terminate, "the agent goes on");
    }
    let lease = seen.valid_lease(plan.settings);
    let at_handover = plan.memory.handover.is_some();
    let can_hand_over = lease.is_some() && (seen.primary().is_some() || at_handover) && !plan.settings.paused;
    if can_hand_over && switchover::for_termination(plan) == Flow::Settled {
        return Flow::Settled;
    }
    plan.end_reign();
    if plan.settings.paused && !seen.stopped() && !at_handover {
        if seen.guard.armed {
            plan.act(Action::DisarmGuard { why: Disarm::Paused });
            plan.wake_after(std::time::Duration::ZERO);
            return plan
                .taken(Step::Terminate, "paused: has nothing enforced on the server before it leaves it running");
        }
        plan.act(Action::Exit { code: EXIT_LEAVES, why: "paused: the server goes on without its agent".to_owned() });
        return plan.taken(Step::Terminate, "paused: ends and leaves the server running");
    }
    if !seen.stopped() {
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan.taken(Step::Terminate, "stops the server");
    }
    if let Some(lease) = seen.lease {
        plan.act(Action::ReleaseLease { created: lease.created, successor: None });
        plan.wake_after(std::time::Duration::ZERO);
        return plan.taken(Step::Terminate, "the server is stopped: releases the lease");
    }
    if seen.guard.armed {
        plan.act(Action::DisarmGuard { why: Disarm::Stopped });
    }
    plan.act(Action::Exit { code: 0, why: "ended as ordered".to_owned() });
    plan.taken(Step::Terminate, "the server is stopped and no lease is held")
}
