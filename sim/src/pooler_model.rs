//! Poolers that clients go through. Whoever controls one says in the store that it is there, and answers a holder that asks it to hold its
//! clients: soon, late, never, or that it cannot.

use pgbaton_store::{Compare, Op, Txn};
use pgbaton_types::BootTime;

use crate::event::Event;
use crate::layout;
use crate::time::{MILLISECOND, SECOND};
use crate::world::{World, trace};

/// How often each looks whether the store still knows it.
const THERE_INTERVAL: u64 = 5 * SECOND;
/// Of a thousand askings: how many are never answered, and how many cannot be met.
const SILENT_PERMILLE: u64 = 150;
const CANNOT_PERMILLE: u64 = 150;

impl World {
    pub(crate) fn pooler_there(&mut self, pooler: usize) {
        self.after(THERE_INTERVAL, Event::PoolerThere { pooler });
        let key = format!("{}{pooler}", layout::POOLERS);
        self.pooler_writes(Txn::when(vec![Compare::absent(key.clone())], vec![Op::put(key, "")]));
    }

    /// The holder's record says that it asks; that takes a while to arrive, and so does the answer.
    pub(crate) fn ask_poolers(&mut self, asked: BootTime) {
        for pooler in 0..self.scenario.poolers {
            let wait = self.rng.log_within(2..2000) * MILLISECOND;
            let holds = !self.rng.chance(CANNOT_PERMILLE);
            if !self.rng.chance(SILENT_PERMILLE) {
                self.after(wait, Event::PoolerAnswers { pooler, asked, holds });
            }
        }
    }

    pub(crate) fn pooler_answers(&mut self, pooler: usize, asked: BootTime, holds: bool) {
        trace!(self, "pooler {pooler}: {}", if holds { "holds its clients" } else { "cannot hold its clients" });
        let put = Op::put(format!("{}{pooler}", layout::POOLERS), layout::write_pooler(asked, holds));
        self.pooler_writes(Txn::when(Vec::new(), vec![put]));
    }

    fn pooler_writes(&mut self, txn: Txn) {
        if self.store_serves() && self.store.transact(self.now, txn) {
            self.store_changed();
        }
    }
}
