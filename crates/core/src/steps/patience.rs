//! How long the holder waits for its own server while another member could lead. Without one that could, it waits on: a
//! recovery that is killed begins anew, and would never end.

use std::time::Duration;

use pgbaton_types::{BootTime, MemberName};

use super::switchover::reason_against;
use crate::decision::{Action, OperationKind, StopMode};
use crate::observation::{Directory, PeerAnswer};
use crate::plan::Plan;

/// The members are asked anew after this time whether one of them could lead: one that was behind may have caught up.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long their answers are waited for.
const ASK_TIME: Duration = Duration::from_millis(300);

/// Whether somebody could lead in the place of the holder.
pub(crate) enum Relief {
    /// They are being asked.
    Asked,
    /// This member could.
    By(MemberName),
    /// None could, for these reasons.
    Nobody(String),
}

/// What a holder does about a server that is not up.
pub(crate) enum Patience {
    /// It waits; beyond its limit with what keeps it from giving up.
    Waits(Option<String>),
    /// It has killed the server: this member could lead.
    Over(MemberName),
}

/// The time after which the holder gives up on its server: what the restart allows that was asked for, or
/// `primary_start_timeout`.
pub(crate) fn limit(plan: &Plan<'_>) -> Duration {
    let orders = &plan.seen.orders;
    orders.start_within.filter(|_| orders.restart).unwrap_or(plan.settings.primary_start_timeout)
}

/// A server that has been starting, or silent, since `since` for longer than the limit, and that another member could relieve: kills
/// it. Otherwise says what it waits for; nothing before the limit. Zero stands for a server that is not started again, but
/// one that is starting all the same is let go on.
pub(crate) fn give_up(plan: &mut Plan<'_>, since: BootTime) -> Patience {
    let limit = limit(plan);
    let new_cluster = matches!(plan.seen.local.directory, Directory::Incomplete { .. });
    if limit.is_zero() || new_cluster || plan.settings.paused {
        return Patience::Waits(None);
    }
    if plan.seen.now.since(since) < limit {
        plan.wake_at_latest(since + limit);
        return Patience::Waits(None);
    }
    match relief(plan) {
        Relief::Asked => Patience::Waits(Some("asks who could lead instead".to_owned())),
        Relief::Nobody(why) => Patience::Waits(Some(format!("nobody could lead instead: {why}"))),
        Relief::By(name) => {
            plan.memory.down_since.get_or_insert(since);
            plan.memory.gave_up = true;
            plan.begin(OperationKind::Stop { mode: StopMode::Kill });
            Patience::Over(name)
        }
    }
}

/// Looks for a member that would lead if there were no leader.
pub(crate) fn relief(plan: &mut Plan<'_>) -> Relief {
    let seen = plan.seen;
    let fit = |answer: &PeerAnswer| answer.unfit.is_none() && answer.history.is_some();
    if let Some(name) = seen.other_members().find(|name| seen.peer(name).is_some_and(fit)) {
        return Relief::By(name.clone());
    }
    let members: Vec<MemberName> = seen.other_members().cloned().collect();
    if members.is_empty() {
        return Relief::Nobody("there is no other member".to_owned());
    }
    let Some(asked) = plan.memory.relief_asked.filter(|asked| seen.now.since(*asked) < ASK_AGAIN) else {
        plan.memory.relief_asked = Some(seen.now);
        plan.act(Action::AskPeers { members });
        plan.wake_after(ASK_TIME);
        return Relief::Asked;
    };
    let answered: Vec<(&MemberName, &PeerAnswer)> =
        members.iter().filter_map(|name| seen.peer_since(name, asked).map(|answer| (name, answer))).collect();
    if answered.len() < members.len() && seen.now.since(asked) < ASK_TIME {
        plan.wake_at_latest(asked + ASK_TIME);
        return Relief::Asked;
    }
    plan.wake_at_latest(asked + ASK_AGAIN);
    let reasons: Vec<String> = members.iter().map(|name| reason_against(name, &answered)).collect();
    Relief::Nobody(reasons.join("; "))
}
