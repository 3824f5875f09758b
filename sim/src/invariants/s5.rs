use pgbaton_core::observation::{Directory, Work};
use pgbaton_core::{Action, OperationKind};

use super::{Chronicle, Invariant, Moment, name};
use crate::postgres_model::Role;
use crate::world::World;

/// **S5**: a server is promoted or started as a primary only while its member really holds the lease of that reign in the
/// store, and its first write finds the guard armed with that reign; and nobody takes a lease whose old primary is not
/// demoted yet.
///
/// The gate is where a late decision would become a second primary.
#[derive(Debug)]
pub(crate) struct PromotionGate {
    writable: Vec<Option<u64>>,
}

impl PromotionGate {
    /// Nobody accepts writes yet.
    pub(crate) fn new(members: usize) -> Self {
        Self { writable: vec![None; members] }
    }

    fn first_write(&mut self, world: &World, past: &Chronicle) -> Result<(), String> {
        for (member, host) in world.hosts.iter().enumerate() {
            let life = host.postgres.accepts_writes().then_some(host.postgres.life);
            let newly = life.is_some() && self.writable[member] != life;
            self.writable[member] = life;
            let orphans = host.postgres.running().is_none();
            if !newly || orphans || past.is_operators(world, member) || world.scenario.settings[member].paused {
                continue;
            }
            let armed = host.guard.armed.map(|armed| armed.epoch);
            if armed != host.postgres.reign() {
                return Err(format!(
                    "{} accepts writes in {:?} while its guard is armed with {armed:?}",
                    name(world, member),
                    host.postgres.reign()
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for PromotionGate {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Changed => self.first_write(world, past),
            Moment::Decided { member, observation, decision } => {
                let takes = decision.actions.iter().any(|action| matches!(action, Action::AcquireLease { .. }));
                let host = &world.hosts[*member];
                let standby = matches!(host.postgres.role(), None | Some(Role::Standby | Role::Promoting));
                let making = observation.local.directory == Directory::Incomplete { work: Work::Bootstrap };
                let strange = host.postgres.reign().is_none();
                if !takes
                    || making
                    || strange
                    || host.agent.settings.paused
                    || standby && !host.postgres.accepts_writes()
                {
                    return Ok(());
                }
                Err(format!("{} takes the lease before its old primary is demoted", name(world, *member)))
            }
            Moment::Executing {
                member,
                action: Action::Begin(OperationKind::Promote { epoch, .. } | OperationKind::StartPrimary { epoch }),
            } => {
                let key = world.store.peek().cluster.leader.clone();
                let wiped = past.wiped.is_some_and(|wiped| past.last_grant().is_some_and(|grant| grant.at < wiped));
                let holds = key.as_ref().is_some_and(|key| key.member == world.names[*member] && key.epoch == *epoch);
                if holds || wiped {
                    return Ok(());
                }
                Err(format!(
                    "{} makes its server a primary in {epoch}, the leader key says {key:?}",
                    name(world, *member)
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::{Epoch, TimelineId};

    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_server_is_promoted_without_the_key() {
        let mut stage = Stage::new();
        let kind = OperationKind::Promote { epoch: Epoch(5), timeline: TimelineId(2), proven: false };
        assert_eq!(stage.executing(0, &Action::Begin(kind)).as_deref(), Some("S5"));
    }

    #[test]
    fn fires_when_the_first_write_finds_no_armed_guard() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        stage.world.hosts[0].guard.armed = None;
        let mut gate = PromotionGate::new(3);
        assert!(gate.check(&Moment::Changed, &stage.world, &Chronicle::new(3)).is_err());
    }
}
