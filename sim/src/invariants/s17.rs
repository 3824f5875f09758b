use std::collections::BTreeMap;

use pgbaton_core::{Action, OperationKind};
use pgbaton_types::{MemberName, Revision};

use super::{Chronicle, Invariant, Moment, name};
use crate::time::{MILLISECOND, Time};
use crate::world::World;

/// How long ago a proof may have been true that arrives now: its way, and a decision.
const PROOF_TRAVELS: Time = 100 * MILLISECOND;

/// **S17**: a planned switchover gives the lease only to a member that holds everything the old primary ever wrote; while
/// the cluster is paused, nothing is promoted, stopped or rebuilt unless an operator asked for it.
///
/// Losing rows in a planned switchover is the failure that users forgive least.
#[derive(Debug, Default)]
pub(crate) struct OperatorsWord {
    /// What each member has last given to whom, rightly: the request may have to be repeated, when the successor has lost its data.
    given: BTreeMap<usize, (Revision, MemberName)>,
}

impl Invariant for OperatorsWord {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let Moment::Executing { member, action } = moment else { return Ok(()) };
        let host = &world.hosts[*member];
        let me = name(world, *member);
        match action {
            Action::ReleaseLease { successor: Some(successor), created } => {
                let given = (*created, successor.clone());
                if self.given.get(member) == Some(&given) {
                    return Ok(());
                }
                let other = world.index_of(successor).and_then(|other| world.hosts[other].postgres.data.as_ref());
                match (&host.postgres.data, other) {
                    // A directory that was lost since proves nothing either way.
                    (None, _) => Ok(()),
                    // Its proof was on its way when an operator took its directory away.
                    (_, None) if past.directory_lost_within(world, PROOF_TRAVELS) => Ok(()),
                    (Some(own), Some(other)) if other.wal.holds_all_of(&own.wal) => {
                        self.given.insert(*member, given);
                        Ok(())
                    }
                    _ => Err(format!("{me} hands over to {successor}, which does not hold everything")),
                }
            }
            Action::Begin(kind) if host.agent.decided_paused => {
                let orders = &host.agent.orders;
                let ordered = orders.restart || orders.reinitialize || orders.terminate;
                let asked = world.store.peek().cluster.failover.is_some() || host.agent.memory.handover.is_some();
                let quiet = matches!(kind, OperationKind::Follow { .. } | OperationKind::FinishBootstrap { .. });
                // What makes a primary was begun before the pause; without its lease it must not come through.
                let running = host.agent.operation.as_ref().map(|begun| &begun.kind);
                let ended = host.agent.finished.as_ref().map(|finished| &finished.kind);
                let undone = running.or(ended).is_some_and(|kind| {
                    matches!(kind, OperationKind::Promote { .. } | OperationKind::StartPrimary { .. })
                });
                // A handover that an operator asked for was called off: the server that it stopped starts again.
                let resumed = matches!(kind, OperationKind::StartPrimary { .. })
                    && matches!(ended, Some(OperationKind::Stop { .. }))
                    && host.agent.memory.last_handover.is_some();
                if ordered || asked || host.agent.decided_asked || quiet || undone || resumed {
                    return Ok(());
                }
                Err(format!("{me} begins to {kind} by itself although the cluster is paused"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_core::StopMode;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_the_successor_lacks_a_record() {
        let mut stage = Stage::new();
        stage.data(0, 10);
        stage.data(1, 10);
        let successor = Some(stage.world.names[1].clone());
        let release = |created| Action::ReleaseLease { created: Revision(created), successor: successor.clone() };
        assert_eq!(stage.executing(0, &release(1)), None);
        stage.data(1, 9);
        assert_eq!(stage.executing(0, &release(1)), None, "it was right when it was begun");
        let action = release(2);
        assert_eq!(stage.executing(0, &action).as_deref(), Some("S17"));
    }

    #[test]
    fn fires_when_a_paused_member_acts_by_itself() {
        let mut stage = Stage::new();
        stage.world.hosts[0].agent.decided_paused = true;
        let action = Action::Begin(OperationKind::Stop { mode: StopMode::Fast });
        assert_eq!(stage.executing(0, &action).as_deref(), Some("S17"));
    }
}
