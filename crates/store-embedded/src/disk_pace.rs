use std::time::Duration;

use pgbaton_types::BootTime;

use crate::duties::{due, furthest};
use crate::node::Node;
use crate::state_machine::now;
use crate::timing::VOTE_WITHIN;

/// So long another voter must have had on its disk what this one could not write, before it counts as faster: a disk that all of
/// them share lets one of them through a moment before the others.
const AHEAD_FOR: Duration = Duration::from_millis(500);

/// So long no write of this disk must have been slow before the leadership is moved without need.
const QUICK_FOR: Duration = Duration::from_secs(10);

/// At most so often a slow disk is warned of.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// How the disk keeps up. Somebody else is to lead only if an election can succeed, in which a majority has to write its votes:
/// where all wait for one disk, it would leave the store without a leader for as long as that is slow.
#[derive(Debug, Default)]
pub(crate) struct DiskPace {
    /// When a write was last seen to take longer than [`VOTE_WITHIN`].
    slow: Option<BootTime>,
    warned: Option<BootTime>,
    /// Since when another voter has had on its disk what is being written here.
    ahead: Option<BootTime>,
}

impl DiskPace {
    /// Looks at the disk; returns for how long the write has been going on that is going on.
    pub(crate) fn look(&mut self, node: &Node) -> Duration {
        let busy = node.flush.busy_for(now());
        let longest = node.flush.take_longest().max(busy);
        if longest > VOTE_WITHIN {
            self.slow = Some(now());
            self.warn(node, longest);
        }
        let ahead = !busy.is_zero() && furthest(node, node.flush.synced()).is_some();
        self.ahead = if ahead { self.ahead.or_else(|| Some(now())) } else { None };
        busy
    }

    fn warn(&mut self, node: &Node, longest: Duration) {
        if due(self.warned, WARN_EVERY) {
            self.warned = Some(now());
            tracing::warn!(
                directory = %node.directory.display(),
                "a write of the store's log takes {} ms; beyond {} ms no voter is elected in time: the disk is too slow or too busy",
                longest.as_millis(),
                VOTE_WITHIN.as_millis()
            );
        }
    }

    /// Whether one of the others has written what this disk has not, for long enough to be sure.
    pub(crate) fn others_are_faster(&self) -> bool {
        self.ahead.is_some_and(|since| now().since(since) >= AHEAD_FOR)
    }

    /// Whether an election would not have to wait for this disk.
    pub(crate) fn is_quick(&self) -> bool {
        self.slow.is_none_or(|slow| now().since(slow) >= QUICK_FOR)
    }
}
