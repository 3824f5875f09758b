use pgbaton_core::observation::{Answer, Observation, Server, Work};
use pgbaton_core::{Action, Decision, OperationKind};
use pgbaton_types::TimelineId;

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// **S1** (asynchronous replication): nobody can get a commit acknowledged in one reign once the lease of a later one has
/// been granted to somebody else, and whoever accepts writes either continues what was written last or has begun a
/// new timeline.
///
/// Two servers that accept writes at once are the one thing that cannot be repaired afterwards: each holds rows that
/// clients believe in.
#[derive(Debug)]
pub(crate) struct OnePrimary {
    /// Who can acknowledge at the moment, in which life of its server.
    writable: Vec<Option<u64>>,
    /// The timeline that each server began after all that was written so far, and on which it has not accepted a write yet.
    fresh: Vec<Option<TimelineId>>,
    /// Who accepted writes last.
    last: Option<usize>,
}

impl OnePrimary {
    /// Nobody has accepted a write yet.
    pub(crate) fn new(members: usize) -> Self {
        Self { writable: vec![None; members], fresh: vec![None; members], last: None }
    }
}

impl Invariant for OnePrimary {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Promoted { member, timeline } => self.fresh[*member] = Some(*timeline),
            Moment::Decided { member, observation, decision } => {
                return loss_is_delivered(world, past, *member, observation, decision);
            }
            Moment::Changed | Moment::Granted { .. } | Moment::Acknowledged { .. } => {}
            _ => return Ok(()),
        }
        for (member, host) in world.hosts.iter().enumerate() {
            if !host.can_acknowledge() || past.is_operators(world, member) {
                self.writable[member] = None;
                // While the cluster is paused it is the operator who answers for the holder.
                if host.can_acknowledge() && past.last_grant().is_some_and(|grant| grant.member == member) {
                    self.last = Some(member);
                }
                continue;
            }
            let life = host.postgres.life;
            if let Some(grant) = past.last_grant()
                && grant.member != member
            {
                return Err(format!(
                    "{} can acknowledge commits although {} has been granted {}",
                    name(world, member),
                    name(world, grant.member),
                    grant.epoch
                ));
            }
            if self.writable[member].is_none() {
                // A new cluster, in which nobody can have written yet, continues nothing either.
                let new = host.postgres.incomplete == Some(Work::Bootstrap);
                let began = std::mem::replace(&mut self.fresh, vec![None; world.hosts.len()])[member];
                let data = host.postgres.data.as_ref();
                let fresh = data.is_some_and(|data| began == Some(data.history.timeline())) || new;
                if let Some(last) = self.last.filter(|last| !fresh && *last != member) {
                    return Err(format!(
                        "{} accepts writes on its old timeline although {} has accepted writes since",
                        name(world, member),
                        name(world, last)
                    ));
                }
                self.last = Some(member);
            }
            self.writable[member] = Some(life);
        }
        Ok(())
    }
}

/// A holder that has read that its key is gone stops its server at once: the deadline is the last line, not the first.
fn loss_is_delivered(
    world: &World,
    past: &Chronicle,
    member: usize,
    observation: &Observation,
    decision: &Decision,
) -> Result<(), String> {
    let host = &world.hosts[member];
    let (Some(lease), Some(as_of)) = (observation.lease, observation.store.as_of) else { return Ok(()) };
    let serves = matches!(observation.local.server, Server::Running { answer: Answer::Primary(_), .. });
    let granted = past.grants.iter().rev().find(|grant| grant.member == member && grant.epoch == lease.epoch);
    let newer =
        granted.is_some_and(|grant| as_of > host.clock.read(grant.at)) && observation.store.revision >= lease.created;
    let leader = observation.store.cluster.leader.as_ref();
    let ours = leader.is_some_and(|leader| leader.member == observation.me && leader.created == lease.created);
    let stops = |kind: &OperationKind| matches!(kind, OperationKind::Stop { .. });
    let stopping = observation.operation.as_ref().is_some_and(|operation| stops(&operation.kind))
        || decision.actions.iter().any(|action| matches!(action, Action::Begin(kind) if stops(kind)));
    if !serves || !newer || ours || stopping || host.agent.settings.paused {
        return Ok(());
    }
    Err(format!("{} has read that its lease of {} is gone and goes on", name(world, member), lease.epoch))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_an_old_primary_outlives_the_grant_of_a_new_reign() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        assert_eq!(stage.grant(0, 5), None);
        assert_eq!(stage.witness(&Moment::Changed), None);
        assert_eq!(stage.grant(1, 9).as_deref(), Some("S1"));
    }

    #[test]
    fn fires_when_the_old_timeline_is_continued_after_another_has_written() {
        let mut stage = Stage::new();
        let mut invariant = OnePrimary::new(3);
        invariant.last = Some(1);
        stage.primary(0, 5);
        let past = Chronicle::new(3);
        assert!(invariant.check(&Moment::Changed, &stage.world, &past).is_err());
    }
}
