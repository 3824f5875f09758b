use super::{Chronicle, Invariant, Moment, name};
use crate::time::{SECOND, Time, nanos};
use crate::world::World;

/// How long after a disturbance a change of leader may still be its consequence, beside three leases: crash recovery and a
/// promotion that fails.
const AFTERMATH: Time = 25 * SECOND;

/// **L4**: no leader changes without a cause: not for a standby that is lost, a link among members or for replication that is
/// cut, a stalled watch, paused replay, or a copy that fails.
///
/// A failover that nobody needed is an outage that the manager made itself.
#[derive(Debug)]
pub(crate) struct NoSpuriousFailover;

impl Invariant for NoSpuriousFailover {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let Moment::Granted { member, epoch } = moment else { return Ok(()) };
        if past.grants.len() < 2 || past.last_grant().is_some_and(|grant| grant.handed_over) {
            return Ok(());
        }
        let ttl = nanos(world.scenario.settings[*member].ttl);
        let quiet_since = world.damage.disturbed + 3 * ttl + AFTERMATH;
        if world.now > quiet_since {
            let quiet = (world.now - world.damage.disturbed) / SECOND;
            let me = name(world, *member);
            return Err(format!("{me} was granted {epoch}, nothing that could cause it happened for {quiet} s"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_the_leader_changes_out_of_the_blue() {
        let mut stage = Stage::new();
        assert_eq!(stage.grant(0, 3), None);
        stage.world.now = 500 * SECOND;
        assert_eq!(stage.grant(1, 5).as_deref(), Some("L4"));
    }
}
