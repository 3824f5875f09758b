//! Clients that write wherever a write is accepted, and believe whoever acknowledges.

use crate::event::Event;
use crate::invariants::Moment;
use crate::postgres_model::{Process, Role};
use crate::world::World;

impl World {
    /// One round: every server that would acknowledge a commit gets one.
    pub(crate) fn clients_write(&mut self) {
        let wait = self.scenario.write_interval;
        let wait = self.rng.within(wait / 2..wait * 3 / 2);
        self.after(wait, Event::Write);
        for member in 0..self.scenario.members {
            if !self.hosts[member].can_acknowledge() {
                continue;
            }
            let bytes = self.rng.log_within(100..self.scenario.write_bytes);
            let id = self.new_id();
            if let Some(data) = &mut self.hosts[member].postgres.data {
                let timeline = data.history.timeline();
                data.wal.append(timeline, bytes, id);
            }
            self.witness(&Moment::Acknowledged { member });
            if matches!(&self.hosts[member].postgres.process, Process::Running(running) if running.role == Role::Primary)
            {
                self.ship_from(member);
            }
        }
    }
}
