use pgbaton_core::observation::{Answer, Observation, Server};
use pgbaton_core::{Action, Decision, OperationKind};

use super::{Chronicle, Invariant, Moment, name};
use crate::postgres_model::Role;
use crate::world::World;

/// **S19**: an agent whose server does not answer acts on the last role that it has seen: a silent primary whose lease is
/// gone is stopped like one that answers.
///
/// "Role unknown, so nothing to demote" leaves a primary running that serves everybody but its own agent.
#[derive(Debug)]
pub(crate) struct LastProvenRole {
    /// The life of the server that each agent has seen as a primary, with its own life.
    seen: Vec<Option<(u64, u64)>>,
}

impl LastProvenRole {
    /// Nobody has seen a primary yet.
    pub(crate) fn new(members: usize) -> Self {
        Self { seen: vec![None; members] }
    }
}

impl Invariant for LastProvenRole {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Decided { member, observation, decision } = moment else { return Ok(()) };
        let host = &world.hosts[*member];
        let lives = (host.agent.life, host.postgres.life);
        match &observation.local.server {
            Server::Running { answer: Answer::Primary(_), .. } => self.seen[*member] = Some(lives),
            Server::Running { answer: Answer::Silent { .. }, .. } => {
                let still = host.postgres.role() == Some(Role::Primary) && self.seen[*member] == Some(lives);
                let covered = observation.lease.is_some_and(|lease| observation.now < lease.deadline);
                if still && !covered && !host.agent.settings.paused && !stops(observation, decision) {
                    return Err(format!("{} leaves a silent primary alone, its lease is gone", name(world, *member)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn stops(observation: &Observation, decision: &Decision) -> bool {
    let stopping = |kind: &OperationKind| matches!(kind, OperationKind::Stop { .. });
    observation.operation.as_ref().is_some_and(|operation| stopping(&operation.kind))
        || decision.actions.iter().any(|action| matches!(action, Action::Begin(kind) if stopping(kind)))
}

#[cfg(test)]
mod tests {
    use pgbaton_core::Finding;
    use pgbaton_core::report::{Step, Verdict};
    use pgbaton_types::BootTime;

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_silent_primary_is_left_alone() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        let decision = |stage: &Stage| Decision {
            actions: Vec::new(),
            renew: true,
            address: pgbaton_core::Address::Gone,
            unfit: None,
            wake_at: BootTime(0),
            memory: stage.world.hosts[0].agent.memory.clone(),
            report: vec![Finding { step: Step::Leader, verdict: Verdict::Blocked("waits for nothing".to_owned()) }],
        };
        let seen = stage.world.observe(0);
        let (first, second) = (decision(&stage), decision(&stage));
        assert_eq!(stage.witness(&Moment::Decided { member: 0, observation: &seen, decision: &first }), None);
        stage.world.hosts[0].silent_since = Some(BootTime(0));
        let silent = stage.world.observe(0);
        let moment = Moment::Decided { member: 0, observation: &silent, decision: &second };
        assert_eq!(stage.witness(&moment).as_deref(), Some("S19"));
    }
}
