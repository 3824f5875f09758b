use pgbaton_core::{OperationKind, StopMode};
use pgbaton_types::Epoch;

use super::{Chronicle, Invariant, Moment, name};
use crate::time::{MILLISECOND, SECOND, Time};
use crate::world::World;

/// How long nobody may write because of a switchover that is refused in the end.
const LIMIT: Time = SECOND;

/// **L9**: a server that is stopped for a handover is shut down within a second, and within a second it is back when the handover is
/// called off, whatever hangs at the other members.
///
/// Not when something befalls the holder, the store or the disks meanwhile, or when an operator does something else.
#[derive(Debug)]
pub(crate) struct ShortRefusal {
    stops: Vec<Option<Stop>>,
}

/// A server that was stopped for a handover.
#[derive(Debug, Clone, Copy)]
struct Stop {
    since: Time,
    reign: Epoch,
    excused: bool,
}

impl ShortRefusal {
    /// For so many members.
    pub(crate) fn new(members: usize) -> Self {
        Self { stops: vec![None; members] }
    }
}

impl Invariant for ShortRefusal {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _: &Chronicle) -> Result<(), String> {
        for (member, stop) in self.stops.iter_mut().enumerate() {
            let host = &world.hosts[member];
            let agent = &host.agent;
            let hands_over = agent.operation.as_ref().is_some_and(|begun| {
                begun.kind == OperationKind::Stop { mode: StopMode::Handover } && !host.postgres.accepts_writes()
            });
            if let (true, None, Some(reign)) = (hands_over, &stop, host.postgres.reign()) {
                *stop = Some(Stop { since: world.now, reign, excused: false });
            }
            let Some(stop) = stop.take_if(|stop| {
                let disturbed = world.damage.disturbed > stop.since || world.damage.stops_slow || !host.agent_runs();
                let ordered = agent.orders.terminate || agent.settings.paused || matches!(moment, Moment::Operated(_));
                stop.excused |= disturbed || ordered;
                let late = hands_over && world.now - stop.since > LIMIT;
                host.postgres.accepts_writes() || late && !stop.excused
            }) else {
                continue;
            };
            let took = world.now - stop.since;
            if !stop.excused && host.postgres.reign() == Some(stop.reign) && took > LIMIT {
                let milliseconds = took / MILLISECOND;
                return Err(format!("{} was not writable for {milliseconds} ms", name(world, member)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_core::{OperationKind, StopMode};

    use super::super::testing::Stage;
    use super::*;
    use crate::postgres_model::Role;

    #[test]
    fn fires_when_nobody_could_write_for_longer_than_a_second() {
        for (took, expected) in [(900, None), (1100, Some("L9"))] {
            let mut stage = Stage::new();
            stage.primary(0, 5);
            stage.grant(0, 5);
            stage.world.hosts[0].agent.alive = true;
            stage.world.operation_begin(0, OperationKind::Stop { mode: StopMode::Handover });
            assert_eq!(stage.witness(&Moment::Changed), None);
            stage.world.now += took * MILLISECOND;
            stage.world.hosts[0].postgres.running_mut().unwrap().role = Role::Primary;
            assert_eq!(stage.witness(&Moment::Changed).as_deref(), expected);
        }
    }
}
