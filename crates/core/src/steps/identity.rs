//! The data directory belongs to another cluster: nothing here is started, and the agent ends with what to correct.

use crate::decision::{Action, OperationKind, StopMode};
use crate::observation::Initialize;
use crate::plan::{Flow, Plan};
use crate::report::Step;

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let seen = plan.seen;
    let (Initialize::Done(system_id), Some(database)) = (seen.store.cluster.initialize, seen.database()) else {
        return plan.pass(Step::Identity, "there is no identity to compare");
    };
    if database.system_id == system_id {
        return plan.pass(Step::Identity, "the data belongs to this cluster");
    }
    if seen.lease.is_some() {
        return plan.pass(Step::Identity, "the data belongs to another cluster: the lease is given back first");
    }
    let why = format!(
        "the data directory belongs to the cluster {}, this cluster is {system_id}: move it away, or correct `data_dir` or `scope`",
        database.system_id
    );
    if !seen.stopped() {
        plan.begin(OperationKind::Stop { mode: StopMode::Fast });
        return plan.taken(Step::Identity, why);
    }
    plan.act(Action::Exit { code: 1, why: why.clone() });
    plan.blocked(Step::Identity, why)
}
