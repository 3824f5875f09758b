use pgbaton_types::Revision;
use tokio::sync::mpsc;

use crate::Event;

/// How many batches may wait for a watcher. One that is further behind reads a snapshot anyway.
const BATCHES_WAITING_MAX: usize = 64;

/// What a watch delivers. After anything but [`WatchItem::Batch`] the watch is over: read a snapshot and watch again
/// from the revision after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes, in order of revision. Nothing was left out between the previous batch and this one.
    Batch {
        /// The revision of the last of them.
        revision: Revision,
        /// The changes of keys with the watched prefix.
        events: Vec<Event>,
    },
    /// The store does not know the changes from the wanted revision on any more.
    Compacted {
        /// Changes up to this revision are gone.
        revision: Revision,
    },
    /// The watch was lost: the watcher did not keep up, or the store closed or lost its connection.
    Lost,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    receiver: mpsc::Receiver<WatchItem>,
}

impl Watch {
    /// A watch and the end that feeds it; for implementers of stores.
    pub fn channel() -> (WatchSender, Self) {
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        (WatchSender { sender }, Self { receiver })
    }

    /// Waits for the next item. Cancel-safe: an item is not lost when the future is dropped.
    pub async fn next(&mut self) -> WatchItem {
        self.receiver.recv().await.unwrap_or(WatchItem::Lost)
    }
}

/// The feeding end of a [`Watch`]. When it is dropped the watcher sees [`WatchItem::Lost`].
#[derive(Debug)]
pub struct WatchSender {
    sender: mpsc::Sender<WatchItem>,
}

impl WatchSender {
    /// Passes an item on without waiting. `false`: the watcher has gone or did not keep up; drop this end.
    pub fn send(&self, item: WatchItem) -> bool {
        self.sender.try_send(item).is_ok()
    }

    /// Whether the watcher has gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the watcher has gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}
