use std::collections::{BTreeMap, BTreeSet};

use pgbaton_types::{Epoch, HistoryEntry, SystemId, TimelineId};

use super::{Chronicle, Invariant, Moment, name};
use crate::host::Host;
use crate::network::Traffic;
use crate::world::World;

/// **S6**: epochs only grow and none is granted twice, also after the store was wiped; each timeline number stands for
/// one promotion in the whole cluster.
///
/// Numbers are how everybody tells old from new. Two timelines of one number cannot be told apart by any server.
#[derive(Debug, Default)]
pub(crate) struct NumbersOnce {
    highest: Epoch,
    timelines: BTreeMap<(SystemId, TimelineId), (usize, Option<HistoryEntry>)>,
    /// Numbers that an operator took by hand, which was given to nobody: of two timelines one may be his.
    by_hand: BTreeSet<(SystemId, TimelineId)>,
}

impl Invariant for NumbersOnce {
    fn check(&mut self, moment: &Moment<'_>, world: &World, past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Granted { member, epoch } => {
                // An epoch that was granted and wiped before anybody heard of it was never acted on.
                // A copy that is put in place between a look and the acquisition: the member refuses what it is given.
                if past.restored && *epoch <= world.hosts[*member].durable.promised {
                    return Ok(());
                }
                // Where a copy has forgotten an epoch, so may have whoever is out of reach: nobody asks for an answer that may never come. An
                // epoch's holder is in reach, or its lease has ended (S1).
                let in_reach = |(other, host): &(usize, &Host)| {
                    let awake = host.up && !host.frozen && host.agent.alive;
                    !past.restored || other == member || awake && world.network.reaches(*member, *other, Traffic::Peers)
                };
                let hosts = world.hosts.iter().enumerate().filter(in_reach);
                let heard = hosts.map(|(_, host)| host.durable.promised).max().unwrap_or_default();
                let highest = if past.wiped.is_some() { heard } else { self.highest.max(heard) };
                if *epoch <= highest {
                    return Err(format!("{} was granted {epoch} after {highest}", name(world, *member)));
                }
                self.highest = self.highest.max(*epoch);
            }
            Moment::Promoted { member, timeline, .. } => {
                let Some(data) = &world.hosts[*member].postgres.data else { return Ok(()) };
                let made = (*member, data.history.ancestors().last().cloned());
                // A timeline of which no copy is left can do no harm.
                let copied = world.hosts.iter().enumerate().any(|(other, host)| {
                    let copy = host.postgres.data.as_ref().filter(|copy| copy.system_id == data.system_id);
                    other != *member && copy.is_some_and(|copy| copy.history.end_of(*timeline).is_some())
                });
                let number = (data.system_id, *timeline);
                if world.hosts[*member].postgres.running().is_some_and(|running| running.by_hand) {
                    self.by_hand.insert(number);
                    return Ok(());
                }
                let known = self.timelines.get(&number).filter(|_| copied && !self.by_hand.contains(&number));
                if let Some((first, _)) = known {
                    return Err(format!(
                        "{} has made timeline {timeline}, which {} made before",
                        name(world, *member),
                        name(world, *first)
                    ));
                }
                self.timelines.insert(number, made);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_an_epoch_comes_back() {
        let mut stage = Stage::new();
        assert_eq!(stage.grant(0, 5), None);
        assert_eq!(stage.grant(1, 5).as_deref(), Some("S6"));
    }

    #[test]
    fn fires_when_a_timeline_number_is_used_twice() {
        let mut stage = Stage::new();
        stage.data(0, 3);
        stage.data(1, 3);
        let data = stage.world.hosts[0].postgres.data.as_mut().unwrap();
        data.history = data.history.fork(TimelineId(2), data.wal.end(), "test");
        let moment = |member| Moment::Promoted { member, timeline: TimelineId(2) };
        assert_eq!(stage.witness(&moment(0)), None);
        assert_eq!(stage.witness(&moment(1)).as_deref(), Some("S6"));
    }
}
