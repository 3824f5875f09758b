//! Events that are not delivered yet, on disk: each is there until it is delivered, in order, whatever happens to this process.
//!
//! Two files: the queue, with what was seen last, replaced as a whole by rename, so that an event is there exactly if what it was derived from was seen; and
//! the number of the last event that was delivered. Between a delivery and that number the process may die: then the event is delivered
//! again, with the same number.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use pgbaton_api::View;
use pgbaton_sys::durable::{self, DurableError};
use pgbaton_sys::lock::{FileLock, LockError};
use pgbaton_types::MemberName;
use serde::{Deserialize, Serialize};

use crate::event::{Event, EventName};
use crate::record::Record;
use crate::seen::{Change, Seen};

/// The version of both files.
const VERSION: u32 = 1;
/// The version of the events' documents.
const EVENT_VERSION: u32 = 1;
/// Nobody else needs to read what is under way.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Which outbox, and what goes into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// The directory; made if it is missing, but not those above it.
    pub directory: PathBuf,
    /// The name of its files: different for each consumer in a directory.
    pub name: String,
    /// Only these events; none: all.
    pub only: Option<Vec<EventName>>,
    /// Only what happens to this member.
    pub member: Option<MemberName>,
    /// How many events may wait: beyond, the oldest are dropped.
    pub events_max: usize,
}

/// Why an outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The directory cannot be made.
    #[error("cannot make the directory {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it, or it cannot be locked.
    #[error("the outbox cannot be had")]
    Lock(#[source] LockError),
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not of this version, or is damaged.
    #[error("{} is no outbox of this version: move it away, and events begin anew", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be written: nothing has changed.
    #[error("the outbox cannot be written")]
    Write(#[source] DurableError),
}

/// The queue's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Queue {
    version: u32,
    source: String,
    /// The number of the next event.
    next: u64,
    seen: Seen,
    events: Vec<Event>,
}

/// An outbox, held by this process alone.
#[derive(Debug)]
pub(crate) struct Outbox {
    settings: OutboxSettings,
    publisher: String,
    queue: Queue,
    delivered: u64,
    _lock: FileLock,
}

/// What a view has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    pub(crate) events: usize,
    /// So many were dropped for it, the oldest.
    pub(crate) dropped: usize,
}

impl Outbox {
    pub(crate) fn open(settings: &OutboxSettings, publisher: &str) -> Result<Self, OutboxError> {
        let directory = &settings.directory;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| OutboxError::Directory { path: directory.clone(), source })?,
        }
        let lock = FileLock::acquire(&file(settings, "lock")).map_err(OutboxError::Lock)?;
        let path = file(settings, "queue");
        let queue = match read(&path)? {
            None => Queue {
                version: VERSION,
                source: format!("{publisher}/{:016x}", rand::random::<u64>()),
                next: 1,
                seen: Seen::default(),
                events: Vec::new(),
            },
            Some(text) => {
                let queue = serde_json::from_str(&text).ok().filter(|queue: &Queue| queue.version == VERSION);
                queue.ok_or(OutboxError::Content { path })?
            }
        };
        let path = file(settings, "delivered");
        let delivered = match read(&path)? {
            None => 0,
            Some(text) => read_delivered(&text, &queue.source).ok_or(OutboxError::Content { path })?,
        };
        let mut outbox =
            Self { settings: settings.clone(), publisher: publisher.to_owned(), queue, delivered, _lock: lock };
        outbox.forget_delivered();
        Ok(outbox)
    }

    /// Takes what has happened since the last view. `at` is the present time, as events are to have it.
    ///
    /// # Errors
    /// When it cannot be written: then the view is as if it had not been.
    pub(crate) fn take(&mut self, view: &View, at: &str) -> Result<Taken, OutboxError> {
        let Some((seen, mut changes)) = self.queue.seen.next(view) else { return Ok(Taken::default()) };
        let settings = &self.settings;
        changes.retain(|change| {
            settings.only.as_ref().is_none_or(|only| only.contains(&change.event))
                && settings.member.as_ref().is_none_or(|member| Some(member) == teller(&seen, change))
        });
        if changes.is_empty() && seen.says_the_same(&self.queue.seen) {
            self.queue.seen = seen;
            return Ok(Taken::default());
        }
        let mut queue = self.queue.clone();
        let record = Record::of(view, seen.epoch(), &self.publisher);
        for change in &changes {
            queue.events.push(event(&queue, &seen, change, &record, at));
            queue.next += 1;
        }
        queue.seen = seen;
        let dropped = queue.events.len().saturating_sub(self.settings.events_max);
        queue.events.drain(..dropped);
        // Names, numbers and texts: nothing in it can fail.
        let text = serde_json::to_vec(&queue).unwrap_or_default();
        durable::replace(&file(&self.settings, "queue"), &text, FILE_MODE).map_err(OutboxError::Write)?;
        self.queue = queue;
        Ok(Taken { events: changes.len(), dropped })
    }

    /// The event that is to be delivered next.
    pub(crate) fn first(&self) -> Option<&Event> {
        self.queue.events.first()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.events.len()
    }

    /// An event, and all before it, need not be delivered any more.
    ///
    /// # Errors
    /// When it cannot be written: a later life delivers it again.
    pub(crate) fn delivered(&mut self, sequence: u64) -> Result<(), OutboxError> {
        self.delivered = self.delivered.max(sequence);
        self.forget_delivered();
        let text = format!("{VERSION} {} {}\n", self.delivered, self.queue.source);
        durable::replace(&file(&self.settings, "delivered"), text.as_bytes(), FILE_MODE).map_err(OutboxError::Write)
    }

    fn forget_delivered(&mut self) {
        let delivered = self.delivered;
        self.queue.events.retain(|event| event.sequence > delivered);
    }
}

fn event(queue: &Queue, seen: &Seen, change: &Change, record: &Record, at: &str) -> Event {
    let primary = seen.primary().map(|primary| seen.node(primary));
    let teller = teller(seen, change).unwrap_or(&change.member);
    Event {
        version: EVENT_VERSION,
        source: queue.source.clone(),
        sequence: queue.next,
        event: change.event,
        at: at.to_owned(),
        member: change.member.clone(),
        former: change.former.clone(),
        node: seen.node(teller),
        primary_node: change.former.as_ref().map(|former| seen.node(former)).or(primary),
        details: change.details.clone(),
        record: record.clone(),
    }
}

/// Whose event it is: as repmgr has it, the primary sees standbys come and go.
fn teller<'a>(seen: &'a Seen, change: &'a Change) -> Option<&'a MemberName> {
    match change.event {
        EventName::ChildNodeDisconnect | EventName::ChildNodeReconnect => seen.primary(),
        _ => Some(&change.member),
    }
}

fn file(settings: &OutboxSettings, extension: &str) -> PathBuf {
    settings.directory.join(format!("{}.{extension}", settings.name))
}

fn read(path: &Path) -> Result<Option<String>, OutboxError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| OutboxError::Read { path: path.to_owned(), source }),
    }
}

/// The number in the second file; of another source it says nothing.
fn read_delivered(text: &str, source: &str) -> Option<u64> {
    let mut words = text.trim_end().splitn(3, ' ');
    let (version, sequence, of) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    (version.parse() == Ok(VERSION)).then_some(if of == source { sequence } else { 0 })
}

#[cfg(test)]
mod tests {
    use pgbaton_types::chain;

    use super::*;
    use crate::record::tests::{server, view};

    fn settings(directory: &Path) -> OutboxSettings {
        OutboxSettings {
            directory: directory.join("outbox"),
            name: "events".to_owned(),
            only: None,
            member: None,
            events_max: 10,
        }
    }

    /// The primary changes with each view.
    fn reign(number: u64) -> View {
        let primary = server(if number.is_multiple_of(2) { "a" } else { "b" }, 1, false);
        view(number, number, Some(primary), Vec::new())
    }

    fn waiting(outbox: &Outbox) -> Vec<(u64, EventName)> {
        outbox.queue.events.iter().map(|event| (event.sequence, event.event)).collect()
    }

    #[test]
    fn events_wait_over_lives_and_keep_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let mut outbox = Outbox::open(&settings, "me").unwrap();
        assert_eq!(outbox.take(&reign(1), "now").unwrap(), Taken { events: 1, dropped: 0 });
        assert_eq!(outbox.take(&reign(2), "now").unwrap(), Taken { events: 2, dropped: 0 });
        let source = outbox.first().unwrap().source.clone();
        outbox.delivered(1).unwrap();
        drop(outbox);
        let mut outbox = Outbox::open(&settings, "me").unwrap();
        let names = [EventName::StandbyPromote, EventName::RepmgrdFailoverPromote];
        assert_eq!(waiting(&outbox), [(2, names[0]), (3, names[1])]);
        assert_eq!(outbox.first().unwrap().source, source);
        assert_eq!(outbox.take(&reign(2), "now").unwrap(), Taken::default(), "it was seen in the last life");
        assert_eq!(outbox.take(&reign(3), "now").unwrap().events, 2);
        assert_eq!(waiting(&outbox).last(), Some(&(5, names[1])));
        let last = outbox.queue.events.last().unwrap();
        assert_eq!(
            (last.node.as_str(), last.primary_node.as_deref(), last.record.epoch.map(|epoch| epoch.0)),
            ("b", Some("a"), Some(3))
        );
    }

    #[test]
    fn the_oldest_are_dropped_when_there_are_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(&settings(directory.path()), "me").unwrap();
        let dropped: usize = (1..=8).map(|number| outbox.take(&reign(number), "now").unwrap().dropped).sum();
        let numbers: Vec<u64> = waiting(&outbox).iter().map(|(number, _)| *number).collect();
        assert_eq!((dropped, numbers), (5, (6..=15).collect()));
    }

    #[test]
    fn only_what_is_wanted_gets_in() {
        let directory = tempfile::tempdir().unwrap();
        let only = OutboxSettings { only: Some(vec![EventName::StandbyPromote]), ..settings(directory.path()) };
        let own = OutboxSettings { name: "own".to_owned(), member: "b".parse().ok(), ..settings(directory.path()) };
        let (mut only, mut own) = (Outbox::open(&only, "me").unwrap(), Outbox::open(&own, "me").unwrap());
        for number in 1..=4 {
            only.take(&reign(number), "now").unwrap();
            own.take(&reign(number), "now").unwrap();
        }
        assert_eq!(waiting(&only), [1, 2, 3].map(|number| (number, EventName::StandbyPromote)));
        let names = [EventName::PrimaryRegister, EventName::StandbyPromote, EventName::RepmgrdFailoverPromote];
        assert_eq!(waiting(&own), [(1, names[0]), (2, names[1]), (3, names[2])]);
    }

    #[test]
    fn one_that_cannot_be_used_says_why_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let said = |settings: &OutboxSettings| Outbox::open(settings, "me").map(drop).map_err(|error| chain(&error));
        let held = Outbox::open(&settings, "me").unwrap();
        let path = |name: &str| settings.directory.join(name).display().to_string();
        let wanted = format!("the outbox cannot be had: {} is locked by another process", path("events.lock"));
        assert_eq!(said(&settings), Err(wanted));
        drop(held);
        std::fs::write(path("events.queue"), "{}").unwrap();
        let wanted =
            format!("{} is no outbox of this version: move it away, and events begin anew", path("events.queue"));
        assert_eq!(said(&settings), Err(wanted));
        assert_eq!(std::fs::read_to_string(path("events.queue")).unwrap(), "{}");
        std::fs::remove_file(path("events.queue")).unwrap();
        std::fs::write(path("events.delivered"), "1 42 me/of-the-past\n").unwrap();
        let mut anew = Outbox::open(&settings, "me").unwrap();
        assert_eq!(anew.take(&reign(1), "now").unwrap().events, 1);
        assert_eq!(waiting(&anew).len(), 1, "a number of the past is none of these events");
        let nowhere = OutboxSettings { directory: directory.path().join("no/where"), ..settings.clone() };
        assert!(said(&nowhere).unwrap_err().starts_with("cannot make the directory "));
    }

    #[test]
    fn what_cannot_be_written_did_not_happen() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(&settings(directory.path()), "me").unwrap();
        outbox.take(&reign(1), "now").unwrap();
        let blocked = outbox.settings.directory.join("events.queue.pgbaton-new");
        std::fs::create_dir(&blocked).unwrap();
        assert!(matches!(outbox.take(&reign(2), "now"), Err(OutboxError::Write(_))));
        assert_eq!(waiting(&outbox).len(), 1);
        std::fs::remove_dir(&blocked).unwrap();
        assert_eq!(outbox.take(&reign(2), "now").unwrap().events, 2);
    }

    #[test]
    fn the_number_that_was_delivered_has_a_version_and_a_source() {
        assert_eq!(read_delivered("1 42 me/1\n", "me/1"), Some(42));
        assert_eq!(read_delivered("1 42 me/1\n", "me/2"), Some(0));
        assert_eq!(read_delivered("2 42 me/1\n", "me/1"), None);
        assert_eq!(read_delivered("", "me/1"), None);
    }
}
