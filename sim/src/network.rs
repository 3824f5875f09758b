use crate::rng::Rng;
use crate::time::{MILLISECOND, Time};

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Agents' questions to each other.
    Peers,
    /// Streaming replication, base backups and rewinds.
    Replication,
}

/// Which links are cut or slow. Cuts overlap, so they are counted.
#[derive(Debug)]
pub(crate) struct Network {
    members: usize,
    store_cuts: Vec<u32>,
    peer_cuts: Vec<u32>,
    replication_cuts: Vec<u32>,
    /// Longest additional delay of a message between a member and the store.
    store_slowness: Vec<Time>,
    /// The same by nature: no fault, and never over.
    slow_by_nature: Time,
    /// Longest additional delay of a batch of WAL.
    pub(crate) replication_slowness: Time,
    /// Messages lost among peers and on the way to or from the store, per thousand.
    pub(crate) loss: u64,
}

impl Network {
    /// A network in which all is well, with a store that may be slow by nature.
    pub(crate) fn new(members: usize, slow_by_nature: Time) -> Self {
        Self {
            members,
            store_cuts: vec![0; members],
            peer_cuts: vec![0; members * members],
            replication_cuts: vec![0; members * members],
            store_slowness: vec![0; members],
            slow_by_nature,
            replication_slowness: 0,
            loss: 0,
        }
    }

    /// Cuts a member off the store, or undoes one cut.
    pub(crate) fn cut_store(&mut self, member: usize, cut: bool) {
        change(&mut self.store_cuts[member], cut);
    }

    /// Cuts a member off all others for this traffic, or undoes one cut.
    pub(crate) fn cut_member(&mut self, member: usize, traffic: Traffic, cut: bool) {
        for other in (0..self.members).filter(|other| *other != member) {
            let index = self.pair(member, other);
            let cuts = match traffic {
                Traffic::Peers => &mut self.peer_cuts,
                Traffic::Replication => &mut self.replication_cuts,
            };
            change(&mut cuts[index], cut);
        }
    }

    /// Makes the way to the store slow; zero: as fast as usual.
    pub(crate) fn slow_store(&mut self, member: usize, longest: Time) {
        self.store_slowness[member] = longest;
    }

    /// Undoes all faults.
    pub(crate) fn heal(&mut self) {
        *self = Self::new(self.members, self.slow_by_nature);
    }

    /// Whether the member reaches the store.
    pub(crate) fn reaches_store(&self, member: usize) -> bool {
        self.store_cuts[member] == 0
    }

    /// Whether two members reach each other.
    pub(crate) fn reaches(&self, one: usize, other: usize, traffic: Traffic) -> bool {
        let index = self.pair(one, other);
        match traffic {
            Traffic::Peers => self.peer_cuts[index] == 0,
            Traffic::Replication => self.replication_cuts[index] == 0,
        }
    }

    /// How long a message to or from the store takes.
    pub(crate) fn store_delay(&self, member: usize, rng: &mut Rng) -> Time {
        let slowness = self.store_slowness[member].max(self.slow_by_nature);
        let extra = if slowness == 0 { 0 } else { rng.within(slowness / 4..slowness) };
        rng.within(MILLISECOND / 5..3 * MILLISECOND) + extra
    }

    /// How long a message between peers takes.
    pub(crate) fn peer_delay(rng: &mut Rng) -> Time {
        rng.within(MILLISECOND / 5..4 * MILLISECOND)
    }

    /// How long a batch of WAL takes until it is flushed on the standby.
    pub(crate) fn replication_delay(&self, rng: &mut Rng) -> Time {
        let extra = if self.replication_slowness == 0 { 0 } else { rng.within(0..self.replication_slowness) };
        rng.within(MILLISECOND..20 * MILLISECOND) + extra
    }

    /// Whether this message is lost.
    pub(crate) fn loses(&self, rng: &mut Rng) -> bool {
        self.loss > 0 && rng.chance(self.loss)
    }

    fn pair(&self, one: usize, other: usize) -> usize {
        one.min(other) * self.members + one.max(other)
    }
}

fn change(count: &mut u32, cut: bool) {
    *count = if cut { *count + 1 } else { count.saturating_sub(1) };
}
