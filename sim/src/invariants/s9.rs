use pgbaton_core::{Action, OperationKind};

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **S9**: a new cluster is made only when no member has data of any identity, and only the holder of the lease writes
/// the identity into the store.
///
/// A store that was wiped must never lead to a second identity, nor to a standby that tells it what it once knew.
#[derive(Debug)]
pub(crate) struct OneIdentity;

impl Invariant for OneIdentity {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Executing { member, action } = moment else { return Ok(()) };
        let me = name(world, *member);
        match action {
            Action::Begin(OperationKind::Initdb) => {
                let whole = world
                    .hosts
                    .iter()
                    .position(|host| host.postgres.data.is_some() && host.postgres.incomplete.is_none());
                match whole {
                    Some(other) => Err(format!("{me} makes a new cluster, {} has data", name(world, other))),
                    None => Ok(()),
                }
            }
            Action::RecordInitialize { .. } if world.hosts[*member].agent.lease.is_none() => {
                Err(format!("{me} writes the identity into the store without holding the lease"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::{Epoch, SystemId};

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_cluster_is_made_beside_data() {
        let mut stage = Stage::new();
        stage.data(0, 3);
        assert_eq!(stage.executing(1, &Action::Begin(OperationKind::Initdb)).as_deref(), Some("S9"));
    }

    #[test]
    fn fires_when_a_standby_restores_the_identity() {
        let mut stage = Stage::new();
        let action = Action::RecordInitialize { system_id: SystemId(7), epoch: Epoch(0) };
        assert_eq!(stage.executing(1, &action).as_deref(), Some("S9"));
    }
}
