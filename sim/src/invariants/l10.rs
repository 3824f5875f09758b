use pgbaton_core::CHECKPOINT_TIME;

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **L10**: nobody's clients are held while the server writes what it could have written before: a holder asks poolers only when its
/// checkpoint has ended, or has taken too long.
#[derive(Debug)]
pub(crate) struct HeldForLittle;

impl Invariant for HeldForLittle {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _: &Chronicle) -> Result<(), String> {
        let Moment::Decided { member, observation, decision } = moment else { return Ok(()) };
        let before = observation.memory.pausing;
        let (Some(pausing), Some(handover)) = (decision.memory.pausing, &observation.memory.handover) else {
            return Ok(());
        };
        let ended = observation.checkpoint.is_some_and(|asked| asked >= handover.since);
        let late = pausing.since.since(handover.since) >= CHECKPOINT_TIME;
        if before != Some(pausing) && !ended && !late {
            return Err(format!("{} asks poolers before its checkpoint", name(world, *member)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_core::memory::{Handover, HandoverPhase, Pausing};
    use pgbaton_core::{Settings, decide};
    use pgbaton_types::Epoch;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_poolers_are_asked_while_the_server_writes() {
        for (ended, expected) in [(true, None), (false, Some("L10"))] {
            let mut stage = Stage::new();
            stage.primary(0, 5);
            let mut observation = stage.world.observe(0);
            let since = observation.now;
            let (epoch, asked, candidate) = (Epoch(5), since, None);
            observation.memory.handover =
                Some(Handover { epoch, candidate, phase: HandoverPhase::Preparing, since, asked });
            observation.checkpoint = ended.then_some(since);
            let mut decision = decide(&Settings::default(), &observation);
            decision.memory.pausing = Some(Pausing { epoch, since });
            let moment = Moment::Decided { member: 0, observation: &observation, decision: &decision };
            assert_eq!(stage.witness(&moment).as_deref(), expected);
        }
    }
}
