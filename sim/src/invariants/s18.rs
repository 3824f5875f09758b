use pgbaton_core::{Action, Disarm};

use super::{Chronicle, Invariant, Moment, name};
use crate::postgres_model::Role;
use crate::world::World;

/// **S18**: the guard stays armed until the last process that could serve a client is gone, or the server is a proven
/// standby, or an operator has paused the cluster; and nobody gets a commit acknowledged without an armed guard.
///
/// A watchdog that is switched off a moment too early guards nothing.
#[derive(Debug)]
pub(crate) struct GuardOutlives;

impl Invariant for GuardOutlives {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Executing { member, action: Action::DisarmGuard { why } } => {
                let host = &world.hosts[*member];
                let sound = match why {
                    Disarm::Stopped => !host.postgres.tree_alive() || !host.postgres.guarded(),
                    // That an operator has just told it to become a primary, nobody can see.
                    Disarm::Standby => host.postgres.running().is_some_and(|running| {
                        running.role == Role::Standby || running.role == Role::Promoting && running.by_hand
                    }),
                    Disarm::Paused => host.agent.settings.paused,
                };
                if sound {
                    return Ok(());
                }
                Err(format!(
                    "{} disarms its guard ({why:?}) while its server is {:?}",
                    name(world, *member),
                    host.postgres.process
                ))
            }
            Moment::Acknowledged { member } => {
                let host = &world.hosts[*member];
                let free = past.is_operators(world, *member) || world.scenario.settings[*member].paused;
                if free || host.guard.alive && host.guard.armed.is_some() {
                    return Ok(());
                }
                Err(format!("{} acknowledges commits while no deadline is enforced", name(world, *member)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::Epoch;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_the_guard_is_disarmed_before_the_last_process_is_gone() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        let action = Action::DisarmGuard { why: Disarm::Stopped };
        assert_eq!(stage.executing(0, &action).as_deref(), Some("S18"));
    }

    #[test]
    fn fires_when_the_guard_is_disarmed_during_a_promotion() {
        let mut stage = Stage::new();
        stage.running(0, Role::Promoting, Some(Epoch(5)));
        let action = Action::DisarmGuard { why: Disarm::Standby };
        assert_eq!(stage.executing(0, &action).as_deref(), Some("S18"));
        stage.world.hosts[0].postgres.running_mut().unwrap().role = Role::Standby;
        assert_eq!(stage.executing(0, &action), None);
    }

    #[test]
    fn fires_when_a_commit_is_acknowledged_unguarded() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        stage.grant(0, 5);
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }), None);
        stage.world.hosts[0].guard.armed = None;
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }).as_deref(), Some("S18"));
    }
}
