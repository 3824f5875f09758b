use pgbaton_core::{Action, OperationKind};

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **S7**: a server is started, and its directory worked on, only when no process of another one is left.
///
/// Two postmasters in one directory destroy it; orphans of a dead one still write.
#[derive(Debug)]
pub(crate) struct OnePostmaster;

impl Invariant for OnePostmaster {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Executing { member, action: Action::Begin(kind) } = moment else { return Ok(()) };
        let postgres = &world.hosts[*member].postgres;
        let needs_none = !matches!(
            kind,
            OperationKind::Stop { .. }
                | OperationKind::Promote { .. }
                | OperationKind::Follow { .. }
                | OperationKind::FinishBootstrap { .. }
        );
        // A server that an operator has just started himself is refused by PostgreSQL's own lock.
        if needs_none && postgres.tree_alive() && postgres.guarded() {
            return Err(format!("{} begins to {kind} while a server is there", name(world, *member)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_server_is_started_beside_another() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        let action = Action::Begin(OperationKind::StartStandby { upstream: None });
        assert_eq!(stage.executing(0, &action).as_deref(), Some("S7"));
    }
}
