use pgbaton_core::observation::{Outcome, Work};
use pgbaton_core::{Action, OperationKind, QuarantineReason};

use super::{Chronicle, Invariant, Moment, name};
use crate::host::Host;
use crate::world::World;

/// **S8**: a database is put away only with proof: it is unfinished, or it really diverged and the configuration
/// allows to rebuild it, or its rewind really failed and the configuration allows that, or an operator asked; and never
/// when it is the only one, as far as anybody can know: what is put away is renamed, so a copy that turns out to have been
/// the last, because another directory was lost in the same moment, is still there for an operator. A clone or a new cluster is made
/// only in an empty directory.
///
/// What was put away may have been the only copy of somebody's commits.
#[derive(Debug)]
pub(crate) struct ProofBeforeDestruction;

impl Invariant for ProofBeforeDestruction {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let Moment::Executing { member, action: Action::Begin(kind) } = moment else { return Ok(()) };
        let host = &world.hosts[*member];
        let me = name(world, *member);
        match kind {
            OperationKind::Quarantine { why } => quarantine(world, past, *member, *why)
                .map_err(|wrong| format!("{me} puts its data away ({why:?}): {wrong}")),
            OperationKind::Clone { .. } | OperationKind::Initdb => {
                // What the same work left unfinished is nobody's copy.
                let own = if matches!(kind, OperationKind::Initdb) { Work::Bootstrap } else { Work::Clone };
                let foreign = host.postgres.incomplete.is_some_and(|work| work != own);
                if host.postgres.data.is_some() || foreign {
                    return Err(format!("{me} begins to {kind} over data"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn quarantine(world: &World, past: &Chronicle, member: usize, why: QuarantineReason) -> Result<(), String> {
    let host = &world.hosts[member];
    let settings = &host.agent.settings;
    let orders = &host.agent.orders;
    let ordered = orders.reinitialize || orders.restart;
    // What was never complete holds nothing of anybody's.
    let empty = matches!(host.postgres.incomplete, Some(Work::Bootstrap | Work::Clone));
    if host.agent.decided_paused && !ordered && !empty {
        return Err("the cluster is paused".to_owned());
    }
    let complete = |host: &Host| host.postgres.incomplete.is_none() && host.postgres.data.is_some();
    let others = world.hosts.iter().enumerate().any(|(other, host)| other != member && complete(host));
    if complete(host) && !others && !past.directory_lost_lately(world) {
        return Err("it is the only copy".to_owned());
    }
    match why {
        QuarantineReason::Incomplete => match host.postgres.incomplete {
            None => Err("it is complete".to_owned()),
            Some(Work::Rewind) if !settings.remove_data_on_rewind_failure => {
                Err("the configuration forbids it after a rewind".to_owned())
            }
            Some(_) => Ok(()),
        },
        QuarantineReason::RewindFailed => {
            let failed = host.agent.finished.as_ref().is_some_and(|finished| {
                matches!(finished.kind, OperationKind::Rewind { .. }) && matches!(finished.outcome, Outcome::Failed(_))
            });
            match (failed, settings.remove_data_on_rewind_failure) {
                (_, false) => Err("the configuration forbids it".to_owned()),
                (false, true) => Err("no rewind has failed".to_owned()),
                (true, true) => Ok(()),
            }
        }
        QuarantineReason::Diverged => {
            if !settings.remove_data_on_diverged {
                return Err("the configuration forbids it".to_owned());
            }
            let leader = past.last_grant().and_then(|grant| world.hosts[grant.member].postgres.data.as_ref());
            match (leader, &host.postgres.data) {
                (Some(leader), Some(own)) if leader.system_id == own.system_id && leader.wal.holds_all_of(&own.wal) => {
                    Err("it has not diverged".to_owned())
                }
                (None, _) if !past.directory_lost_lately(world) => Err("the leader has no data".to_owned()),
                _ => Ok(()),
            }
        }
        QuarantineReason::Ordered if !host.agent.orders.reinitialize => Err("nobody asked for it".to_owned()),
        QuarantineReason::Ordered => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_copy_that_fits_is_put_away() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        stage.grant(0, 5);
        stage.data(1, 10);
        stage.world.hosts[1].agent.settings.remove_data_on_diverged = true;
        let action = Action::Begin(OperationKind::Quarantine { why: QuarantineReason::Diverged });
        assert_eq!(stage.executing(1, &action).as_deref(), Some("S8"));
        stage.world.hosts[1].agent.settings.remove_data_on_rewind_failure = false;
        let action = Action::Begin(OperationKind::Quarantine { why: QuarantineReason::RewindFailed });
        assert_eq!(stage.executing(1, &action).as_deref(), Some("S8"));
    }

    #[test]
    fn fires_when_the_only_copy_is_put_away() {
        let mut stage = Stage::new();
        stage.data(1, 10);
        stage.world.hosts[1].agent.orders.reinitialize = true;
        let action = Action::Begin(OperationKind::Quarantine { why: QuarantineReason::Ordered });
        assert_eq!(stage.executing(1, &action).as_deref(), Some("S8"));
    }
}
