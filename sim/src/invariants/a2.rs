use super::{Chronicle, Invariant, Moment, name};
use crate::time::{SECOND, nanos};
use crate::world::World;

/// **A2**: once faults have ended and somebody has led for some loops, the virtual address leads to that member.
///
/// Without it, a core that never gives the address to anybody would keep A1.
#[derive(Debug)]
pub(crate) struct AddressFollows;

impl Invariant for AddressFollows {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        let (Moment::Settled, Some(healing)) = (moment, &world.healing) else { return Ok(()) };
        let (Some(since), Some(grant)) = (healing.led_since, past.last_grant()) else { return Ok(()) };
        let host = &world.hosts[grant.member];
        let (settings, now) = (&host.agent.settings, host.clock.read(world.now));
        let holds = host.agent.lease.is_some_and(|held| held.lease.epoch == grant.epoch && now < held.lease.deadline);
        let well = host.agent_runs() && host.agent.ready && holds && !host.agent.orders.terminate;
        let long = world.now - since > 2 * SECOND + 3 * nanos(settings.loop_wait);
        // A server that is stopped, or was just started, is no primary to lead anybody to.
        let up = host.postgres.running().is_some_and(|running| world.now - running.since > SECOND);
        if well && long && up && host.agent.operation.is_none() && !host.has_address(world.now) {
            return Err(format!("{} leads, and the address leads nowhere", name(world, grant.member)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pgbaton_core::observation::Lease;
    use pgbaton_store::LeaseId;
    use pgbaton_types::{BootTime, Epoch, Revision};

    use super::super::testing::Stage;
    use super::*;
    use crate::address_model::OnInterface;
    use crate::host::Held;
    use crate::liveness::Healing;

    #[test]
    fn fires_when_the_address_leads_nowhere() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        assert_eq!(stage.grant(0, 5), None);
        let mut healing = Healing::begin(&stage.world);
        healing.led_since = Some(0);
        stage.world.healing = Some(healing);
        stage.world.now = 20 * SECOND;
        let agent = &mut stage.world.hosts[0].agent;
        (agent.alive, agent.ready) = (true, true);
        let granted = Duration::from_secs(10);
        let lease = Lease { epoch: Epoch(5), created: Revision(5), granted, deadline: BootTime(u64::MAX) };
        agent.lease = Some(Held { lease, id: LeaseId(1) });
        assert_eq!(stage.witness(&Moment::Settled).as_deref(), Some("A2"));
        stage.world.hosts[0].address = Some(OnInterface { gone_at: BootTime(u64::MAX) });
        assert_ne!(stage.witness(&Moment::Settled).as_deref(), Some("A2"));
    }
}
