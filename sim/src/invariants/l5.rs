use pgbaton_core::report::Verdict;

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **L5**: no dead end: in every state that is reached, some step of the decision settles the matter, by acting or by
/// saying what it waits for.
///
/// A state that no rule speaks of is one that nobody gets out of by himself.
#[derive(Debug)]
pub(crate) struct NoDeadEnd;

impl Invariant for NoDeadEnd {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Decided { member, observation, decision } = moment else { return Ok(()) };
        let settled = decision.report.last().is_some_and(|last| !matches!(last.verdict, Verdict::NotApplicable(_)));
        // Without a store there is only the guard.
        let view = observation.store.as_of;
        let stale =
            view.is_none_or(|as_of| observation.now.since(as_of) > world.scenario.settings[*member].retry_timeout);
        if settled || stale {
            return Ok(());
        }
        Err(format!("no step of {} settles the matter: {:?}", name(world, *member), observation.local))
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_core::Decision;
    use pgbaton_types::BootTime;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_no_step_settles_the_matter() {
        let mut stage = Stage::new();
        let mut seen = stage.world.observe(0);
        seen.store.as_of = Some(seen.now);
        let memory = seen.memory.clone();
        let decision = Decision {
            actions: Vec::new(),
            renew: true,
            address: pgbaton_core::Address::Gone,
            unfit: None,
            wake_at: BootTime(0),
            memory,
            report: Vec::new(),
        };
        let moment = Moment::Decided { member: 0, observation: &seen, decision: &decision };
        assert_eq!(stage.witness(&moment).as_deref(), Some("L5"));
    }
}
