use super::{Chronicle, Invariant, Moment};
use crate::liveness::{describe, leader_must_exist, writable};
use crate::time::SECOND;
use crate::world::World;

/// **L1**: once the faults are over and somebody could lead, there is exactly one server that accepts writes, within the
/// bound of [`crate::liveness::Healing::leader_by`].
///
/// Safety alone is easy: never lead.
#[derive(Debug)]
pub(crate) struct OneLeader;

impl Invariant for OneLeader {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let (Moment::Settled, Some(healing)) = (moment, &world.healing) else { return Ok(()) };
        if healing.led_since.is_some() || world.now < healing.leader_by || !leader_must_exist(world) {
            return Ok(());
        }
        let waited = (world.now - healing.since) / SECOND;
        let states: Vec<String> = (0..world.hosts.len()).map(|member| describe(world, member)).collect();
        let count = writable(world).len();
        Err(format!("{count} servers accept writes {waited} s after the faults were over; {}", states.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;
    use crate::liveness::Healing;

    #[test]
    fn fires_when_nobody_leads_in_time() {
        let mut stage = Stage::new();
        stage.world.healing = Some(Healing::begin(&stage.world));
        assert_eq!(stage.witness(&Moment::Settled), None);
        stage.world.now += 1000 * SECOND;
        assert_eq!(stage.witness(&Moment::Settled).as_deref(), Some("L1"));
    }
}
