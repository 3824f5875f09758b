use pgbaton_core::{Action, OperationKind};

use super::{Chronicle, Invariant, Moment, name};
use crate::time::{SECOND, Time, nanos};
use crate::world::World;

/// How long a server that somebody else started or promoted may go on once a healthy agent sees it, beside two loops
/// of that agent.
const STRANGER_FOR: Time = 4 * SECOND;

/// **S12**: an agent starts a server as a primary only with a lease that has not run out; a primary that somebody else
/// started or promoted is stopped as soon as a healthy agent sees it.
///
/// A restarted old primary that comes up as a primary is the most common split brain in the field.
#[derive(Debug)]
pub(crate) struct BornStandby {
    /// Since when each member's strange primary is looked at by a healthy agent.
    seen: Vec<Option<Time>>,
}

impl BornStandby {
    /// Nothing strange yet.
    pub(crate) fn new(members: usize) -> Self {
        Self { seen: vec![None; members] }
    }
}

impl Invariant for BornStandby {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Executing { member, action: Action::Begin(OperationKind::StartPrimary { epoch }) } => {
                let host = &world.hosts[*member];
                let now = host.clock.read(world.now);
                let covered =
                    host.agent.lease.is_some_and(|held| held.lease.epoch == *epoch && now < held.lease.deadline);
                if covered {
                    return Ok(());
                }
                Err(format!("{} starts its server as a primary without the lease of {epoch}", name(world, *member)))
            }
            Moment::Acknowledged { member } => {
                let host = &world.hosts[*member];
                let healthy = host.agent_runs()
                    && host.agent.ready
                    && host.guard.alive
                    && !host.agent.settings.paused
                    && host.silent_since.is_none()
                    && !host.unreadable;
                // A lease makes it the member's own: a paused primary that took it, or one that was adopted.
                let owned = host.agent.lease.is_some();
                if host.strange_since.is_none() || owned || !healthy {
                    self.seen[*member] = None;
                    return Ok(());
                }
                let since = *self.seen[*member].get_or_insert(world.now);
                let since = since.max(host.strange_since.unwrap_or(0));
                if world.now - since > STRANGER_FOR + 2 * nanos(host.agent.settings.loop_wait) {
                    return Err(format!("{} lets a primary go on that it did not make", name(world, *member)));
                }
                Ok(())
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
    use crate::postgres_model::Role;

    #[test]
    fn fires_when_an_old_primary_is_started_as_one() {
        let mut stage = Stage::new();
        stage.data(0, 3);
        let mut invariant = BornStandby::new(3);
        let action = Action::Begin(OperationKind::StartPrimary { epoch: Epoch(5) });
        let moment = Moment::Executing { member: 0, action: &action };
        assert!(invariant.check(&moment, &stage.world, &Chronicle::new(3)).is_err());
        assert!(stage.executing(0, &action).is_some());
    }

    #[test]
    fn fires_when_a_stranger_goes_on() {
        let mut stage = Stage::new();
        stage.running(0, Role::Primary, None);
        let host = &mut stage.world.hosts[0];
        host.strange_since = Some(0);
        host.agent.alive = true;
        host.agent.ready = true;
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }), None);
        stage.world.now = 60 * SECOND;
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }).as_deref(), Some("S12"));
    }
}
