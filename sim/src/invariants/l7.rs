use pgbaton_core::report::Verdict;

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// The shortest text that can say which evidence is missing, in bytes.
const REASON_MIN: usize = 8;

/// **L7**: refusals explain themselves: whoever waits or does not lead says why.
///
/// "Nobody leads" at three in the morning is only half as bad when the status says what is missing.
#[derive(Debug)]
pub(crate) struct RefusalsExplain;

impl Invariant for RefusalsExplain {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Decided { member, decision, .. } = moment else { return Ok(()) };
        for finding in &decision.report {
            let (Verdict::Taken(why) | Verdict::NotApplicable(why) | Verdict::Blocked(why)) = &finding.verdict;
            if why.len() < REASON_MIN {
                return Err(format!("{} does not say why: {finding}", name(world, *member)));
            }
        }
        if decision.unfit.as_ref().is_some_and(|why| why.len() < REASON_MIN) {
            return Err(format!("{} does not say why it would not lead", name(world, *member)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_core::Decision;
    use pgbaton_core::report::{Finding, Step};
    use pgbaton_types::BootTime;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_refusal_has_no_reason() {
        let mut stage = Stage::new();
        let seen = stage.world.observe(0);
        let memory = seen.memory.clone();
        let report = vec![Finding { step: Step::Race, verdict: Verdict::Blocked(String::new()) }];
        let decision = Decision {
            actions: Vec::new(),
            renew: true,
            address: pgbaton_core::Address::Gone,
            unfit: None,
            wake_at: BootTime(0),
            memory,
            report,
        };
        let moment = Moment::Decided { member: 0, observation: &seen, decision: &decision };
        assert_eq!(stage.witness(&moment).as_deref(), Some("L7"));
    }
}
