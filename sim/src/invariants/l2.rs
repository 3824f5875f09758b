use super::{Chronicle, Invariant, Moment, name};
use crate::liveness::stragglers;
use crate::time::SECOND;
use crate::world::World;

/// **L2**: once there is a leader again, every member that can follow streams from it, within the bound of
/// [`crate::liveness::Healing::followed_by`].
///
/// A cluster that has failed over and stays without standbys has spent its redundancy and will lose data next time.
#[derive(Debug)]
pub(crate) struct AllFollow;

impl Invariant for AllFollow {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let (Moment::Settled, Some(healing)) = (moment, &world.healing) else { return Ok(()) };
        if healing.led_since.is_none() || world.now < healing.followed_by {
            return Ok(());
        }
        let Some(straggler) = stragglers(world).first().copied() else { return Ok(()) };
        let waited = (world.now - healing.since) / SECOND;
        let agent = &world.hosts[straggler].agent;
        let why = agent.last_report.last().map(ToString::to_string).unwrap_or_default();
        Err(format!("{} does not follow {waited} s after the faults were over ({why})", name(world, straggler)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;
    use crate::liveness::Healing;

    #[test]
    fn fires_when_a_member_does_not_follow_in_time() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        stage.grant(0, 5);
        stage.data(1, 10);
        let mut healing = Healing::begin(&stage.world);
        healing.led_since = Some(0);
        stage.world.healing = Some(healing);
        assert_eq!(stage.witness(&Moment::Settled), None);
        stage.world.now += 1000 * SECOND;
        assert_eq!(stage.witness(&Moment::Settled).as_deref(), Some("L2"));
    }
}
