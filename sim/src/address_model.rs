use pgbaton_core::address::{self, Address, OVERSTAY_MAX};
use pgbaton_types::{BootTime, Epoch};

use crate::host::Host;
use crate::invariants::Moment;
use crate::time::Time;
use crate::world::{World, trace};

/// The virtual address on a host's interface. The kernel takes it away at its end, whatever has become of the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnInterface {
    /// The latest moment of its removal.
    pub(crate) gone_at: BootTime,
}

/// What the part of the agent that keeps the address was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Keeping {
    /// Nothing yet.
    #[default]
    Unknown,
    /// To keep it in this reign.
    Held(Epoch),
    /// To keep it away.
    Gone,
}

impl Host {
    /// Clients that ask for the address get to this host.
    pub(crate) fn has_address(&self, now: Time) -> bool {
        let there = |address: OnInterface| !self.clock.read(now).reached(address.gone_at);
        self.up && !self.frozen && self.address.is_some_and(there)
    }
}

impl World {
    /// Whether a decision changes what is done with the address.
    pub(crate) fn address_changes(&self, member: usize, address: Address) -> bool {
        let host = &self.hosts[member];
        match address {
            Address::Held { epoch } => host.agent.address != Keeping::Held(epoch) || !host.has_address(self.now),
            Address::Kept { .. } => host.agent.address == Keeping::Unknown,
            Address::Gone => host.agent.address != Keeping::Gone || host.address.is_some(),
        }
    }

    /// Does with the address what was decided, before anything else is done.
    pub(crate) fn obey_address(&mut self, member: usize, address: Address) {
        match address {
            Address::Held { epoch } => {
                self.hosts[member].agent.address = Keeping::Held(epoch);
                self.prolong_address(member, epoch, true);
            }
            Address::Kept { epoch } if self.hosts[member].agent.address == Keeping::Unknown => {
                let there = self.hosts[member].has_address(self.now);
                self.hosts[member].agent.address = if there { Keeping::Held(epoch) } else { Keeping::Gone };
                self.prolong_address(member, epoch, false);
            }
            Address::Kept { .. } => {}
            Address::Gone => self.take_address(member),
        }
    }

    /// Takes the address off the interface.
    pub(crate) fn take_address(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        host.agent.address = Keeping::Gone;
        if host.address.take().is_some() {
            trace!(self, "{}: address: taken away", self.names[member]);
        }
    }

    /// Gives the address the lifetime that the lease of `epoch` leaves, if it is still the one it is held in. `add`: also if it is not there.
    pub(crate) fn prolong_address(&mut self, member: usize, epoch: Epoch, add: bool) {
        let there = self.hosts[member].has_address(self.now);
        let host = &mut self.hosts[member];
        let lease = host.agent.lease.map(|held| held.lease).filter(|lease| lease.epoch == epoch);
        let (Some(lease), true) = (lease, host.agent.address == Keeping::Held(epoch) && (there || add)) else { return };
        let (now, settings) = (host.clock.read(self.now), &host.agent.settings);
        let Some(lifetime) = address::lifetime(now, address::end_of(&lease, settings), settings.bugs) else { return };
        host.address = Some(OnInterface { gone_at: now + lifetime + OVERSTAY_MAX });
        if !there {
            trace!(self, "{}: address: put on the interface for {} s", self.names[member], lifetime.as_secs());
            self.witness(&Moment::Changed);
        }
    }
}
