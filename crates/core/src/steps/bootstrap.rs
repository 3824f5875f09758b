//! There is no data here and nobody leads: the one member that claims it makes the cluster.

use std::time::Duration;

use pgbaton_types::TimelineId;

use crate::decision::{Action, OperationKind, QuarantineReason};
use crate::observation::{Directory, Initialize, Listed, Observation, Work};
use crate::plan::{Flow, Plan};
use crate::report::Step;
use crate::steps::leader::highest_promise;

/// An `initdb` that failed is tried again after this.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

pub(crate) fn step(plan: &mut Plan<'_>) -> Flow {
    let (settings, seen) = (plan.settings, plan.seen);
    let made_here = plan.memory.made_here;
    if let Some(why) = plan.failed_lately(RETRY_PAUSE, |kind| *kind == OperationKind::Initdb) {
        return plan.blocked(Step::Bootstrap, why);
    }
    let failed = seen.finished.as_ref().is_some_and(|finished| finished.kind == OperationKind::Initdb);
    match (&seen.local.directory, seen.store.cluster.initialize) {
        (_, Initialize::Done(_)) => {
            plan.blocked(Step::Bootstrap, "the cluster exists, but nobody leads it: waits for a leader to clone from")
        }
        (_, Initialize::UnderWay { mine: false }) => {
            plan.blocked(Step::Bootstrap, "another member is making the cluster")
        }
        (Directory::Incomplete { work: Work::Bootstrap }, Initialize::UnderWay { mine: true }) if made_here => {
            plan.memory.reserved = Some(TimelineId::FIRST);
            plan.act(Action::AcquireLease {
                reserve: TimelineId::FIRST,
                reservation_seen: seen.store.cluster.reserved.map(|reservation| reservation.revision),
                initialize_seen: seen.store.cluster.initialize,
                // It is recorded when the cluster is complete.
                identity: None,
                ttl: settings.ttl,
                above: highest_promise(plan),
            });
            plan.taken(Step::Bootstrap, "the new database is there: takes the lease to start it")
        }
        (Directory::Incomplete { work: Work::Bootstrap }, Initialize::UnderWay { mine: true })
            if failed && seen.stopped() =>
        {
            plan.begin(OperationKind::Initdb);
            plan.taken(Step::Bootstrap, "makes the new cluster, in place of what failed")
        }
        (Directory::Incomplete { .. }, _) => {
            // Nobody can have written anything into it: it never had its roles.
            if !seen.stopped() {
                return plan.blocked(Step::Bootstrap, "waits for the server of an incomplete bootstrap to be gone");
            }
            plan.memory.made_here = false;
            plan.begin(OperationKind::Quarantine { why: QuarantineReason::Incomplete });
            plan.taken(Step::Bootstrap, "an earlier bootstrap was not completed: puts its directory away")
        }
        (_, Initialize::UnderWay { mine: true }) => match beside_data(seen) {
            // A store that was restored from an older copy may know a claim that is over.
            Some(why) => {
                plan.act(Action::WithdrawClaim);
                plan.taken(Step::Bootstrap, format!("{why}: withdraws its claim"))
            }
            None => {
                plan.begin(OperationKind::Initdb);
                plan.taken(Step::Bootstrap, "makes the new cluster")
            }
        },
        (_, Initialize::Absent) => match why_not(plan, seen) {
            Some(why) => plan.blocked(Step::Bootstrap, why),
            None => {
                plan.act(Action::ClaimBootstrap);
                plan.wake_after(Duration::ZERO);
                plan.taken(Step::Bootstrap, "nobody has data and nobody makes the cluster: claims it")
            }
        },
    }
}

fn why_not(plan: &Plan<'_>, seen: &Observation) -> Option<String> {
    if plan.settings.paused {
        return Some("paused: no cluster is made".to_owned());
    }
    if !plan.settings.may_bootstrap {
        return Some("the configuration has no section `bootstrap`".to_owned());
    }
    if plan.settings.nofailover {
        return Some("it has the tag nofailover: leaves it to others".to_owned());
    }
    let silent = seen.store.listed.iter().find(|listed| listed.heard(seen.now).is_none());
    beside_data(seen).or(silent.map(|listed| format!("{} has not said whether it holds data", listed.address)))
}

/// Who is known to have data.
fn beside_data(seen: &Observation) -> Option<String> {
    let members = &seen.store.cluster.members;
    let member = members.iter().find(|(name, facts)| facts.has_data && **name != seen.me);
    let holds = |listed: &&Listed| {
        let host = listed.heard(seen.now);
        host.is_some_and(|host| host.system_id.is_some() || host.primary_may_run)
    };
    let who = member.map(|(name, _)| name.to_string());
    let who = who.or_else(|| seen.store.listed.iter().find(holds).map(|listed| listed.address.clone()));
    who.map(|who| format!("{who} holds data: no new cluster is made beside it"))
}
