use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use pgbaton_types::BootTime;
use tokio::sync::{oneshot, watch};

use crate::codec;
use crate::disk::Disk;
use crate::journal::{Journal, JournalError, Place};
use crate::raft_types::TypeConfig;
use crate::raft_types::alias::{Entry, LogIdT, Vote};
use crate::snapshot_file::SnapshotFiles;

/// How many bytes of recent entries stay in memory, so that replication to a follower that keeps up reads no file.
const RECENT_BYTES_MAX: usize = 128 * 1024;

/// How many appends are synced together at the most.
const BATCH_MAX: usize = 64;

#[derive(Debug)]
struct Slot {
    log_id: LogIdT,
    /// The encoded entry, while it is recent or not yet on disk.
    bytes: Option<Arc<[u8]>>,
    /// Where it is on disk, once it is synced.
    place: Option<Place>,
}

/// What is in the log, by index; what the readers see. Ahead of the disk by what is being written.
#[derive(Debug, Default)]
struct Index {
    purged: Option<LogIdT>,
    vote: Option<Vote>,
    entries: VecDeque<Slot>,
    recent_bytes: usize,
    /// Entries before this position have their bytes on disk only.
    forgotten: usize,
}

enum Work {
    Append { entries: Vec<(u64, Arc<[u8]>)>, flushed: IOFlushed<TypeConfig> },
    Vote(Vote, Done),
    Truncate(Option<LogIdT>, Done),
    Purge(LogIdT, Done),
    Snapshot(Vec<u8>, Done),
    Stop,
}

type Done = oneshot::Sender<io::Result<()>>;

/// openraft's log over a [`Journal`], which one thread of its own writes: no async task ever waits for the disk.
///
/// An error of the disk is final. After a failed sync the kernel may have dropped what was to be written, and a second sync
/// would say yes: so the log takes nothing more, and Raft stops.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    index: Arc<Mutex<Index>>,
    work: mpsc::Sender<Work>,
    flush: Arc<FlushWatch>,
}

/// What the log's thread is doing, for those who watch it.
#[derive(Debug)]
pub(crate) struct FlushWatch {
    /// Boot time in nanoseconds at which the write that is going on began; zero: none.
    busy_since: AtomicU64,
    /// Entries below this index are on disk.
    synced: AtomicU64,
    /// The longest write since it was last asked for, in nanoseconds.
    longest: AtomicU64,
    failed: watch::Sender<Option<String>>,
}

impl FlushWatch {
    /// For how long the write that is going on has been going on.
    pub(crate) fn busy_for(&self, now: BootTime) -> Duration {
        match self.busy_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => now.since(BootTime(since)),
        }
    }

    /// Entries below this index are on disk; later ones may be on their way.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// The longest write that ended since this was asked last.
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_nanos(self.longest.swap(0, Ordering::AcqRel))
    }

    /// The error that ended the log, if one did.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }
}

/// The thread that writes. Joined when the store shuts down.
pub(crate) type LogThread = JoinHandle<()>;

impl Log {
    /// Opens the log on this disk and starts its thread. Also returns the newest snapshot.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        segment_bytes: u64,
    ) -> Result<(Self, LogThread, Option<Vec<u8>>), JournalError> {
        let (journal, recovered) = Journal::open(Arc::clone(disk), segment_bytes)?;
        let (snapshots, snapshot) = SnapshotFiles::open(disk.as_ref())?;
        let entries = recovered.entries.into_iter();
        let entries: VecDeque<Slot> =
            entries.map(|(log_id, place)| Slot { log_id, bytes: None, place: Some(place) }).collect();
        let forgotten = entries.len();
        let index = Index { purged: recovered.purged, vote: recovered.vote, entries, recent_bytes: 0, forgotten };
        let flush = Arc::new(FlushWatch {
            busy_since: AtomicU64::new(0),
            synced: AtomicU64::new(index.next()),
            longest: AtomicU64::new(0),
            failed: watch::Sender::new(None),
        });
        let index = Arc::new(Mutex::new(index));
        let (work, queue) = mpsc::channel();
        let writer = Writer { journal, snapshots, index: Arc::clone(&index), flush: Arc::clone(&flush), failed: None };
        let thread = std::thread::Builder::new()
            .name("store-log".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || writer.run(&queue))?;
        Ok((Self { index, work, flush }, thread, snapshot))
    }

    /// Who watches the disk.
    pub(crate) fn flush_watch(&self) -> Arc<FlushWatch> {
        Arc::clone(&self.flush)
    }

    /// Entries up to this one are not in the log any more.
    pub(crate) fn purged(&self) -> Option<LogIdT> {
        self.locked().purged
    }

    /// Writes a snapshot durably.
    pub(crate) async fn save_snapshot(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.ask(|done| Work::Snapshot(bytes, done)).await
    }

    /// Ends the thread after what it has been given.
    pub(crate) fn stop(&self) {
        // It fails when the thread has ended already, which is what is wanted.
        let _ = self.work.send(Work::Stop);
    }

    async fn ask(&self, work: impl FnOnce(Done) -> Work) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.work.send(work(done)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn locked(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopped() -> io::Error {
    io::Error::other("the store's log is closed")
}

impl Index {
    fn first(&self) -> u64 {
        self.entries.front().map_or_else(|| self.next(), |slot| slot.log_id.index)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn last(&self) -> Option<LogIdT> {
        self.entries.back().map(|slot| slot.log_id).or(self.purged)
    }

    /// Gives up the bytes of older entries that are on disk.
    fn forget(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX && self.forgotten < self.entries.len() {
            let slot = &mut self.entries[self.forgotten];
            if slot.place.is_none() {
                return;
            }
            self.recent_bytes -= slot.bytes.take().map_or(0, |bytes| bytes.len());
            self.forgotten += 1;
        }
    }

    fn synced(&mut self, index: u64, bytes: &Arc<[u8]>, place: Place) {
        let Some(position) = index.checked_sub(self.first()) else { return };
        let slot = usize::try_from(position).ok().and_then(|position| self.entries.get_mut(position));
        // An entry may have been truncated, and replaced, while it was on its way.
        if let Some(slot) = slot.filter(|slot| slot.bytes.as_ref().is_some_and(|own| Arc::ptr_eq(own, bytes))) {
            slot.place = Some(place);
        }
    }
}

/// Owns the journal, on its own thread.
struct Writer {
    journal: Journal,
    snapshots: SnapshotFiles,
    index: Arc<Mutex<Index>>,
    flush: Arc<FlushWatch>,
    failed: Option<String>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Work>) {
        let mut next = None;
        while let Some(work) = next.take().or_else(|| queue.recv().ok()) {
            match work {
                Work::Append { entries, flushed } => {
                    let mut batch = entries;
                    let mut waiting = vec![flushed];
                    while waiting.len() < BATCH_MAX {
                        match queue.try_recv() {
                            Ok(Work::Append { entries, flushed }) => {
                                batch.extend(entries);
                                waiting.push(flushed);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(&batch, waiting);
                }
                Work::Vote(vote, done) => self.step(done, |writer| writer.journal.save_vote(&vote)),
                Work::Truncate(last, done) => self.step(done, |writer| {
                    writer.flush.synced.fetch_min(last.map_or(0, |last| last.index + 1), Ordering::AcqRel);
                    writer.journal.truncate_after(last)
                }),
                Work::Purge(through, done) => self.step(done, |writer| writer.journal.purge(through)),
                Work::Snapshot(bytes, done) => {
                    self.step(done, |writer| writer.snapshots.save(&bytes).map_err(JournalError::from));
                }
                Work::Stop => return,
            }
        }
    }

    fn append(&mut self, batch: &[(u64, Arc<[u8]>)], waiting: Vec<IOFlushed<TypeConfig>>) {
        let result = self.guarded(|writer| writer.journal.append(batch));
        if let Ok(places) = &result {
            let mut index = lock(&self.index);
            for ((number, bytes), place) in batch.iter().zip(places) {
                index.synced(*number, bytes, place.clone());
            }
            index.forget();
            if let Some((last, _)) = batch.last() {
                self.flush.synced.store(last + 1, Ordering::Release);
            }
        }
        for flushed in waiting {
            flushed.io_completed(result.as_ref().map(|_| ()).map_err(|error| io::Error::other(error.to_string())));
        }
    }

    fn step(&mut self, done: Done, step: impl FnOnce(&mut Self) -> Result<(), JournalError>) {
        let result = self.guarded(step);
        // It fails when nobody waits any more; the work is done all the same.
        let _ = done.send(result);
    }

    /// Does one thing with the disk; after the first failure nothing any more.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, JournalError>) -> io::Result<T> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(format!("the store's log failed earlier: {failed}")));
        }
        let began = pgbaton_sys::clock::boottime();
        self.flush.busy_since.store(began, Ordering::Release);
        let result = step(self);
        self.flush.busy_since.store(0, Ordering::Release);
        let took = pgbaton_sys::clock::boottime().saturating_sub(began);
        self.flush.longest.fetch_max(took, Ordering::AcqRel);
        result.map_err(|error| {
            let text = match &error {
                JournalError::Io(cause) => format!("{error}: {cause}"),
                JournalError::Damaged(_) => error.to_string(),
            };
            tracing::error!(error = text, "the store's log failed; this voter stops");
            self.failed = Some(text.clone());
            self.flush.failed.send_replace(Some(text.clone()));
            io::Error::other(text)
        })
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let sources: Vec<Result<Arc<[u8]>, Place>> = {
            let index = self.locked();
            let first = index.first();
            let start = match range.start_bound() {
                Bound::Included(start) => *start,
                Bound::Excluded(start) => start + 1,
                Bound::Unbounded => first,
            };
            let end = match range.end_bound() {
                Bound::Included(end) => end + 1,
                Bound::Excluded(end) => *end,
                Bound::Unbounded => index.next(),
            };
            let positions = start.max(first)..end.min(index.next());
            positions
                .filter_map(|number| {
                    let slot = index.entries.get(usize::try_from(number - first).ok()?)?;
                    slot.bytes.clone().map(Ok).or_else(|| slot.place.clone().map(Err))
                })
                .collect()
        };
        if sources.iter().all(Result::is_ok) {
            return sources.into_iter().flatten().map(|bytes| parse(&bytes)).collect();
        }
        let read = move || {
            let sources = sources.into_iter();
            sources.map(|source| source.map_or_else(|place| parse(&place.read()?), |bytes| parse(&bytes))).collect()
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.locked().vote)
    }
}

fn parse(bytes: &[u8]) -> io::Result<Entry> {
    codec::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let index = self.locked();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.ask(|done| Work::Vote(*vote, done)).await?;
        self.locked().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut batch = Vec::new();
        {
            let mut index = self.locked();
            for entry in entries {
                let log_id = entry.log_id();
                let bytes: Arc<[u8]> = codec::encode(&entry).into();
                index.recent_bytes += bytes.len();
                batch.push((log_id.index, Arc::clone(&bytes)));
                index.entries.push_back(Slot { log_id, bytes: Some(bytes), place: None });
            }
        }
        self.work.send(Work::Append { entries: batch, flushed: callback }).map_err(|_| stopped())
    }

    async fn truncate_after(&mut self, last: Option<LogIdT>) -> io::Result<()> {
        {
            let mut index = self.locked();
            while index.entries.back().is_some_and(|slot| Some(slot.log_id.index) > last.map(|last| last.index)) {
                let slot = index.entries.pop_back();
                index.recent_bytes -= slot.and_then(|slot| slot.bytes).map_or(0, |bytes| bytes.len());
            }
            index.forgotten = index.forgotten.min(index.entries.len());
        }
        self.ask(|done| Work::Truncate(last, done)).await
    }

    async fn purge(&mut self, through: LogIdT) -> io::Result<()> {
        {
            let mut index = self.locked();
            while index.entries.front().is_some_and(|slot| slot.log_id.index <= through.index) {
                let slot = index.entries.pop_front();
                index.recent_bytes -= slot.and_then(|slot| slot.bytes).map_or(0, |bytes| bytes.len());
                index.forgotten = index.forgotten.saturating_sub(1);
            }
            index.purged = index.purged.max(Some(through));
        }
        self.ask(|done| Work::Purge(through, done)).await
    }
}
