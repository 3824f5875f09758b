//! A small world for the tests of the invariants, in which anything can be set up.

use std::collections::BTreeSet;

use pgbaton_core::Action;
use pgbaton_core::observation::ControlState;
use pgbaton_types::{Epoch, SystemId, TimelineHistory, TimelineId};

use super::Moment;
use crate::guard_model::Armed;
use crate::postgres_model::{Data, Role};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::wal::Wal;
use crate::world::World;

/// A world of three members that has not begun to move.
pub(crate) struct Stage {
    pub(crate) world: World,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut rng = Rng::new(1);
        let mut scenario = Scenario::draw(&mut rng, None);
        while scenario.members != 3 || scenario.settings.iter().any(|settings| settings.nofailover) {
            scenario = Scenario::draw(&mut rng, None);
        }
        Self { world: World::new(rng, scenario, false) }
    }

    /// Gives a member a database with `records` records.
    pub(crate) fn data(&mut self, member: usize, records: u64) {
        let mut wal = Wal::default();
        for id in 1..=records {
            wal.append(TimelineId::FIRST, 1000, id);
        }
        let history = TimelineHistory::root(TimelineId::FIRST);
        self.world.hosts[member].postgres.data = Some(Data {
            system_id: SystemId(7),
            wal,
            state: ControlState::InProduction,
            control_history: history.clone(),
            history,
            rewindable: true,
            known_timelines: BTreeSet::new(),
            standby_signal: false,
        });
    }

    /// A server that accepts writes in this reign, under an armed guard.
    pub(crate) fn primary(&mut self, member: usize, epoch: u64) {
        self.running(member, Role::Primary, Some(Epoch(epoch)));
        let host = &mut self.world.hosts[member];
        let deadline = host.clock.read(self.world.now + 1_000_000_000);
        host.guard.armed = Some(Armed { epoch: Epoch(epoch), deadline });
    }

    pub(crate) fn running(&mut self, member: usize, role: Role, reign: Option<Epoch>) {
        self.data(member, 10);
        let postgres = &mut self.world.hosts[member].postgres;
        postgres.started(0, true, role == Role::Standby, None);
        let running = postgres.running_mut().unwrap();
        running.role = role;
        running.reign = reign;
    }

    /// Shows a moment to all invariants; the first that is broken.
    pub(crate) fn witness(&mut self, moment: &Moment<'_>) -> Option<String> {
        self.world.violation = None;
        self.world.witness(moment);
        self.world.violation.take().map(|violation| violation.invariant.to_owned())
    }

    pub(crate) fn grant(&mut self, member: usize, epoch: u64) -> Option<String> {
        self.witness(&Moment::Granted { member, epoch: Epoch(epoch) })
    }

    pub(crate) fn executing(&mut self, member: usize, action: &Action) -> Option<String> {
        self.witness(&Moment::Executing { member, action })
    }
}
