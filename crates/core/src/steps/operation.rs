//! An operation is under way: it is waited for, or given up when what it was begun for is gone.

use crate::decision::{Action, OperationKind};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::patience::{self, Patience};

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    let Some(operation) = &seen.operation else {
        return plan.pass(Step::Operation, "nothing is under way");
    };
    if let OperationKind::Clone { from, epoch } | OperationKind::Rewind { from, epoch } = &operation.kind {
        let leads =
            seen.store.cluster.leader.as_ref().is_some_and(|leader| leader.member == *from && leader.epoch == *epoch);
        if !leads && seen.view_is_fresh(plan.settings) {
            plan.act(Action::CancelOperation);
            return plan.taken(Step::Operation, format!("{}: given up, {from} does not lead any more", operation.kind));
        }
        if seen.orders.terminate {
            plan.act(Action::CancelOperation);
            return plan.taken(Step::Operation, format!("{}: given up, the agent ends", operation.kind));
        }
    }
    if let OperationKind::StartPrimary { epoch }
    | OperationKind::Promote { epoch, .. }
    | OperationKind::FinishBootstrap { epoch } = operation.kind
        && seen.valid_lease(plan.settings).is_none_or(|lease| lease.epoch != epoch)
    {
        if plan.settings.paused && matches!(operation.kind, OperationKind::FinishBootstrap { .. }) {
            // It is a primary already, and nobody leads beside a paused one.
            plan.act(Action::CancelOperation);
            return plan.taken(
                Step::Operation,
                format!("{}: given up, the lease is lost; paused: the server is left alone", operation.kind),
            );
        }
        plan.end_reign();
        plan.begin(OperationKind::Stop { mode: crate::decision::StopMode::Kill });
        return plan.taken(Step::Operation, format!("{}: the lease is lost", operation.kind));
    }
    let mut alone = None;
    if let OperationKind::StartPrimary { .. } = operation.kind {
        let since = plan.memory.down_since.unwrap_or(operation.since);
        match patience::give_up(plan, since) {
            Patience::Over(name) => {
                let waited = seen.now.since(since).as_secs();
                let why = format!("{}: not up after {waited} s, {name} could lead: kills it", operation.kind);
                return plan.taken(Step::Operation, why);
            }
            Patience::Waits(why) => alone = why,
        }
    }
    let alone = alone.map(|why| format!("; {why}")).unwrap_or_default();
    let seconds = seen.now.since(operation.since).as_secs();
    plan.blocked(Step::Operation, format!("{} is under way for {seconds} s{alone}", operation.kind))
}
