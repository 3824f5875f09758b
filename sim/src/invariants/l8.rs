use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **L8**: demotion ends: whatever hangs, K after the deadline nobody gets a commit acknowledged any more.
///
/// This is what the guard is for; everything else may fail.
#[derive(Debug)]
pub(crate) struct DemotionEnds;

impl Invariant for DemotionEnds {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let Moment::Acknowledged { member } = moment else { return Ok(()) };
        let host = &world.hosts[*member];
        let Some(armed) = host.guard.armed.filter(|_| !past.is_operators(world, *member)) else { return Ok(()) };
        let settings = &world.scenario.settings[*member];
        let over = host.clock.read(world.now).since(armed.deadline + settings.kill_time);
        if over.is_zero() || settings.paused {
            return Ok(());
        }
        Err(format!(
            "{} acknowledges commits {over:?} after the deadline of {} and K",
            name(world, *member),
            armed.epoch
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;
    use crate::time::SECOND;

    #[test]
    fn fires_when_a_commit_is_acknowledged_after_the_deadline() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        stage.grant(0, 5);
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }), None);
        stage.world.now = 60 * SECOND;
        assert_eq!(stage.witness(&Moment::Acknowledged { member: 0 }).as_deref(), Some("L8"));
    }
}
