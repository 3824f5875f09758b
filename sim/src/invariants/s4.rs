use pgbaton_core::observation::{Answer, FailoverRequest, Observation, Server, StandbyStatus};
use pgbaton_core::{Action, Decision};
use pgbaton_types::{Divergence, Lsn, MemberName, TimelineHistory};

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **S4**: whoever takes the lease in a race has asked the others, nobody who answered runs as a primary, and nobody
/// who answered and is fit holds more: by ancestry and position, never by the number of a timeline.
///
/// Every byte that a less advanced member lacks is a byte of somebody's commits.
#[derive(Debug)]
pub(crate) struct MostAdvanced;

impl Invariant for MostAdvanced {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        let Moment::Decided { member, observation, decision } = moment else { return Ok(()) };
        if !takes_the_lease(decision) || is_by_word(observation) || world.scenario.settings[*member].paused {
            return Ok(());
        }
        let Some(own) = standby(observation) else {
            // A new cluster: its database was made a moment ago and nobody else has one.
            return Ok(());
        };
        let me = name(world, *member);
        let others = observation.store.cluster.members.keys().any(|other| other != me);
        let Some(race) = &observation.memory.race else {
            return if others { Err(format!("{me} takes the lease without a race")) } else { Ok(()) };
        };
        if race.asked < race.since && others {
            return Err(format!("{me} takes the lease without having asked anybody"));
        }
        let with_key = |other: &MemberName| observation.store.cluster.members.contains_key(other);
        let answers = observation.peers.iter().filter(|(_, answer)| answer.asked >= race.asked);
        for (other, answer) in answers.filter(|(other, _)| with_key(other)) {
            if answer.primary {
                return Err(format!("{me} takes the lease although {other} runs as a primary"));
            }
            let Some(history) = answer.history.as_ref().filter(|_| answer.unfit.is_none()) else { continue };
            if holds_more((history, answer.position), (&own.history, own.received)) {
                return Err(format!(
                    "{me} takes the lease at {} on timeline {}, {other} is at {} on timeline {}",
                    own.received,
                    own.history.timeline(),
                    answer.position,
                    history.timeline()
                ));
            }
        }
        Ok(())
    }
}

fn takes_the_lease(decision: &Decision) -> bool {
    decision.actions.iter().any(|action| matches!(action, Action::AcquireLease { .. }))
}

/// A proven handover, or an operator's order, names this member.
fn is_by_word(observation: &Observation) -> bool {
    let named = |request: &FailoverRequest| {
        request.candidate.as_ref() == Some(&observation.me) && (request.handed_over || request.leader.is_none())
    };
    observation.store.cluster.failover.as_ref().is_some_and(named)
}

fn standby(observation: &Observation) -> Option<&StandbyStatus> {
    match &observation.local.server {
        Server::Running { answer: Answer::Standby(status), .. } => Some(status),
        _ => None,
    }
}

/// Whether the first holds everything of the second and more, or, when they have parted for good, is further.
fn holds_more(one: (&TimelineHistory, Lsn), other: (&TimelineHistory, Lsn)) -> bool {
    let covers = |whole: (&TimelineHistory, Lsn), part: (&TimelineHistory, Lsn)| {
        whole.0.divergence_of(part.0, part.1) == Divergence::None
    };
    match (covers(one, other), covers(other, one)) {
        (true, false) => true,
        (false, true) => false,
        _ => one.1 > other.1,
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::TimelineId;

    use super::*;

    #[test]
    fn more_is_told_by_ancestry_and_position() {
        let one = TimelineHistory::root(TimelineId(1));
        let two = one.fork(TimelineId(2), Lsn(100), "test");
        assert!(holds_more((&two, Lsn(120)), (&one, Lsn(90))));
        assert!(!holds_more((&one, Lsn(90)), (&two, Lsn(120))));
        assert!(holds_more((&one, Lsn(101)), (&one, Lsn(100))));
        assert!(!holds_more((&one, Lsn(100)), (&one, Lsn(100))), "equals settle it among themselves");
    }

    #[test]
    fn fires_when_a_better_answer_was_there() {
        use super::super::testing::Stage;
        use crate::postgres_model::Role;
        use pgbaton_core::memory::Race;
        use pgbaton_core::observation::{MemberFacts, PeerAnswer};
        use pgbaton_types::{BootTime, Revision};

        let mut stage = Stage::new();
        stage.running(0, Role::Standby, None);
        let mut observation = stage.world.observe(0);
        let revision = observation.store.revision;
        observation.memory.race = Some(Race { since: BootTime(1), asked: BootTime(1), revision });
        let answer = PeerAnswer {
            timeline_given: None,
            asked: BootTime(2),
            system_id: None,
            primary: false,
            history: Some(TimelineHistory::root(TimelineId(1))),
            position: Lsn(u64::MAX / 2),
            unfit: None,
            promised: pgbaton_types::Epoch(0),
            priority: 1,
            checkpointed: false,
            prepared: None,
            proof: None,
        };
        let other = stage.world.names[1].clone();
        observation.store.cluster.members.insert(other.clone(), MemberFacts::default());
        observation.peers.insert(other, answer);
        let acquire = Action::AcquireLease {
            reserve: TimelineId(2),
            reservation_seen: Some(Revision(1)),
            initialize_seen: pgbaton_core::observation::Initialize::Absent,
            identity: None,
            ttl: std::time::Duration::from_secs(5),
            above: pgbaton_types::Epoch(0),
        };
        let decision = Decision {
            actions: vec![acquire],
            renew: true,
            address: pgbaton_core::Address::Gone,
            unfit: None,
            wake_at: BootTime(3),
            memory: observation.memory.clone(),
            report: Vec::new(),
        };
        let moment = Moment::Decided { member: 0, observation: &observation, decision: &decision };
        assert_eq!(stage.witness(&moment).as_deref(), Some("S4"));
    }
}
