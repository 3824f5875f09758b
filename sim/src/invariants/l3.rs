use super::{Chronicle, Invariant, Moment};
use crate::world::World;

/// How often the lease may be granted after the faults are over, beside planned handovers: once for the leader that was
/// missing, once more because the first one found that its server cannot do it.
const GRANTS_MAX: usize = 2;

/// **L3**: no flapping. Once the faults are over, the lease does not go round.
///
/// Each change costs every client its connection, and each change is a chance to lose something.
#[derive(Debug)]
pub(crate) struct NoFlapping;

impl Invariant for NoFlapping {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let (Moment::Granted { .. }, Some(healing)) = (moment, &world.healing) else { return Ok(()) };
        // What was asked of a slow store while there were faults may arrive later.
        let from = healing.since + 4 * world.scenario.store_slowness;
        let since = past.grants.iter().filter(|grant| grant.at > from && !grant.handed_over).count();
        if since > GRANTS_MAX {
            return Err(format!("the lease was granted {since} times since the faults were over"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use crate::liveness::Healing;

    #[test]
    fn fires_when_the_lease_goes_round() {
        let mut stage = Stage::new();
        stage.world.healing = Some(Healing::begin(&stage.world));
        stage.world.now += 1;
        for epoch in [3, 4] {
            assert_eq!(stage.grant(0, epoch), None);
        }
        assert_eq!(stage.grant(1, 5).as_deref(), Some("L3"));
    }
}
