use std::collections::VecDeque;

use pgbaton_types::Revision;

use crate::{Event, Watch, WatchItem, WatchSender};

/// The recent changes and those who watch them. Not replicated: each node serves its own watchers from what it
/// applied.
#[derive(Debug)]
pub struct EventRing {
    recent: VecDeque<Event>,
    events_max: usize,
    /// Changes up to and including this revision are not in `recent` any more.
    dropped_through: Revision,
    watchers: Vec<Watcher>,
}

/// Someone who watches.
#[derive(Debug)]
struct Watcher {
    prefix: String,
    /// Changes below this are not wanted: they are in the snapshot that the watcher has read, maybe from a node that was
    /// ahead of this one.
    from: Revision,
    sender: WatchSender,
}

impl EventRing {
    /// A ring of at most `events_max` changes, for a state that is at `revision` now.
    pub fn new(events_max: usize, revision: Revision) -> Self {
        Self { recent: VecDeque::new(), events_max, dropped_through: revision, watchers: Vec::new() }
    }

    /// Takes the changes of one command and passes them on. A watcher that does not keep up loses its watch.
    pub fn publish(&mut self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let revision = last.revision;
        self.watchers.retain(|watcher| {
            let wanted = wanted(events.iter(), &watcher.prefix, watcher.from);
            if wanted.is_empty() {
                !watcher.sender.is_closed()
            } else {
                watcher.sender.send(WatchItem::Batch { revision, events: wanted })
            }
        });
        self.recent.extend(events.iter().cloned());
        while self.recent.len() > self.events_max {
            let Some(dropped) = self.recent.pop_front() else { break };
            self.dropped_through = dropped.revision;
        }
    }

    /// The state was replaced as a whole (a snapshot was installed) and is at `revision` now: what lies between is not
    /// known change by change, so every watch ends.
    pub fn reset(&mut self, revision: Revision) {
        self.recent.clear();
        self.dropped_through = revision;
        for watcher in self.watchers.drain(..) {
            // Fails when the watcher has gone or is full; either way it learns by the closed channel.
            let _ = watcher.sender.send(WatchItem::Compacted { revision });
        }
    }

    /// Watches keys beginning with `prefix`, from the changes of `from` on, that one included. When those are not
    /// known any more the watch begins, and ends, with [`WatchItem::Compacted`].
    pub fn watch(&mut self, prefix: &str, from: Revision) -> Watch {
        let (sender, watch) = Watch::channel();
        if from <= self.dropped_through {
            sender.send(WatchItem::Compacted { revision: self.dropped_through });
            return watch;
        }
        let missed = wanted(self.recent.iter(), prefix, from);
        if let Some(revision) = missed.last().map(|event| event.revision) {
            sender.send(WatchItem::Batch { revision, events: missed });
        }
        self.watchers.push(Watcher { prefix: prefix.to_owned(), from, sender });
        watch
    }
}

fn wanted<'a>(events: impl Iterator<Item = &'a Event>, prefix: &str, from: Revision) -> Vec<Event> {
    events.filter(|event| event.revision >= from && event.key().starts_with(prefix)).cloned().collect()
}
