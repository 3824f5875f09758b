use std::time::Duration;

use pgbaton_core::observation::Directory;
use pgbaton_core::{Action, OperationKind};
use pgbaton_types::Divergence;

use super::{Chronicle, Invariant, Moment, name};
use crate::world::World;

/// How old a leader's answer may be to count as what the member knew when it decided.
const KNOWN_FOR: Duration = Duration::from_secs(2);

/// **S14**: a stopped database is started as a standby of a leader only if, by what the member knows of the leader's
/// history, all that it holds is in it; and what streams is a prefix of what it streams from.
///
/// A copy that diverged and is not rewound either never streams or, worse, serves rows that never were.
#[derive(Debug)]
pub(crate) struct RejoinProven;

impl Invariant for RejoinProven {
    fn check(&mut self, moment: &Moment<'_>, world: &World, _past: &Chronicle) -> Result<(), String> {
        match moment {
            Moment::Decided { member, observation, decision } => {
                let Directory::Database(database) = &observation.local.directory else { return Ok(()) };
                for action in &decision.actions {
                    let Action::Begin(OperationKind::StartStandby { upstream: Some(upstream) }) = action else {
                        continue;
                    };
                    let known = observation.peers.get(upstream);
                    // An answer from before this reign tells of another history.
                    let since = decision.memory.reign_seen.map(|(_, since)| since).unwrap_or_default();
                    let known = known.filter(|answer| answer.asked >= since);
                    let known =
                        known.filter(|answer| answer.primary && observation.now.since(answer.asked) <= KNOWN_FOR);
                    let (Some(history), Some(end)) = (known.and_then(|answer| answer.history.as_ref()), database.end)
                    else {
                        continue;
                    };
                    let divergence = history.divergence_of(&database.history, end);
                    if divergence != Divergence::None {
                        return Err(format!("{} follows {upstream} although {divergence:?}", name(world, *member)));
                    }
                }
                Ok(())
            }
            Moment::Streamed { member, upstream } => {
                let data = |member: usize| world.hosts[member].postgres.data.as_ref();
                match (data(*member), data(*upstream)) {
                    (Some(own), Some(source)) if source.wal.holds_all_of(&own.wal) => Ok(()),
                    _ => Err(format!("{} holds what {} does not", name(world, *member), name(world, *upstream))),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;

    #[test]
    fn fires_when_a_standby_holds_more_than_its_upstream() {
        let mut stage = Stage::new();
        stage.data(0, 9);
        stage.data(1, 10);
        assert_eq!(stage.witness(&Moment::Streamed { member: 0, upstream: 1 }), None);
        stage.world.hosts[1].postgres.data.as_mut().unwrap().wal.drop_last();
        stage.world.hosts[1].postgres.data.as_mut().unwrap().wal.drop_last();
        assert_eq!(stage.witness(&Moment::Streamed { member: 0, upstream: 1 }).as_deref(), Some("S14"));
    }
}
