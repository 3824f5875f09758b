use pgbaton_types::Epoch;

use super::{Chronicle, Invariant, Moment, name};
use crate::postgres_model::Role;
use crate::world::World;

/// **A1**: no two hosts have the virtual address at once, and no host has it whose member was not granted the lease last, or whose server has
/// not taken writes in that reign.
///
/// Clients write wherever the address leads them; two hosts that answer for it split them by the age of their neighbour caches.
#[derive(Debug)]
pub(crate) struct OneAddress {
    /// The reign in which each member's server was last seen to take writes.
    led: Vec<Option<Epoch>>,
}

impl OneAddress {
    /// Nobody has led yet.
    pub(crate) fn new(members: usize) -> Self {
        Self { led: vec![None; members] }
    }
}

impl Invariant for OneAddress {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        if !matches!(
            moment,
            Moment::Changed | Moment::Granted { .. } | Moment::Promoted { .. } | Moment::Acknowledged { .. }
        ) {
            return Ok(());
        }
        let Some(grant) = past.last_grant() else { return Ok(()) };
        if world.hosts[grant.member].postgres.role() == Some(Role::Primary) {
            self.led[grant.member] = Some(grant.epoch);
        }
        let mut has = world.hosts.iter().enumerate().filter(|(_, host)| host.has_address(world.now));
        let Some((first, _)) = has.next() else { return Ok(()) };
        if let Some((second, _)) = has.next() {
            return Err(format!("{} and {} have the address at once", name(world, first), name(world, second)));
        }
        if first != grant.member {
            let holder = name(world, grant.member);
            return Err(format!(
                "{} has the address although {holder} was granted {}",
                name(world, first),
                grant.epoch
            ));
        }
        if self.led[first] != Some(grant.epoch) {
            return Err(format!("{} has the address and has not taken writes in {}", name(world, first), grant.epoch));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::BootTime;

    use super::super::testing::Stage;
    use super::*;
    use crate::address_model::OnInterface;

    fn give(stage: &mut Stage, member: usize) {
        stage.world.hosts[member].address = Some(OnInterface { gone_at: BootTime(u64::MAX) });
    }

    #[test]
    fn fires_when_two_hosts_have_it() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        assert_eq!(stage.grant(0, 5), None);
        give(&mut stage, 0);
        assert_eq!(stage.witness(&Moment::Changed), None);
        give(&mut stage, 1);
        assert_eq!(stage.witness(&Moment::Changed).as_deref(), Some("A1"));
    }

    #[test]
    fn fires_when_it_outlives_its_reign() {
        let mut stage = Stage::new();
        stage.primary(0, 5);
        assert_eq!(stage.grant(0, 5), None);
        give(&mut stage, 0);
        stage.world.kill_tree(0, "is killed");
        assert_eq!(stage.grant(1, 9).as_deref(), Some("A1"));
    }

    #[test]
    fn fires_before_the_server_takes_writes() {
        let mut stage = Stage::new();
        stage.running(0, Role::Standby, None);
        assert_eq!(stage.grant(0, 5), None);
        give(&mut stage, 0);
        assert_eq!(stage.witness(&Moment::Changed).as_deref(), Some("A1"));
    }
}
