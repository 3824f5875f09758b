//! A writer: commits one row every few milliseconds to whichever server accepts it, and knows which were acknowledged.
//!
//! Each server has a connection of its own, so that a server that does not answer holds nobody up; a standby is asked
//! as often as a primary is written to, so that a promotion is seen at once. Every row has a number of its own and is
//! tried once only: what is not acknowledged may or may not be there, what is acknowledged must be.

mod record;
mod session;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_types::BootTime;
use tokio::sync::watch;

use crate::clock;

pub use record::{Commit, Failure, FailureClass, Gap, Record};

/// Time between two commits, and between two questions to a standby.
pub const INTERVAL: Duration = Duration::from_millis(5);

/// Why a writer could not be started, or its rows not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// Its thread could not be started.
    #[error("cannot start the writer's thread")]
    Thread(#[source] std::io::Error),
    /// Its thread panicked.
    #[error("the writer's thread has ended by a panic")]
    Panicked,
    /// A server could not be asked which rows it has.
    #[error("cannot read the writer's rows on {server}")]
    Read {
        /// The server.
        server: SocketAddr,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// A server did not answer in time.
    #[error("server {server} did not say within {seconds} s which rows it has")]
    Slow {
        /// The server.
        server: SocketAddr,
        /// The limit.
        seconds: u64,
    },
}

/// Whom to write to, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The servers, in an order that [`Commit::server`] refers to.
    pub servers: Vec<SocketAddr>,
    /// The role; it must be allowed to create a table.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<String>,
    /// The database.
    pub database: String,
}

/// A running writer. Stopped, its record forgotten, when this is dropped.
#[derive(Debug)]
pub struct Writer {
    target: Target,
    record: Arc<Mutex<Record>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts writing to a table `pgbaton_writer`, which is made where it is missing.
    pub fn start(target: &Target) -> Result<Self, WriterError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WriterError::Thread)?;
        // Numbers grow from one writer to the next, so that several can use one table one after the other.
        let first = i64::try_from(clock::now().0).unwrap_or(i64::MAX / 2);
        let record = Arc::new(Mutex::new(Record::new(target.servers.clone(), first)));
        let (stop, mut stopped) = watch::channel(false);
        let (sessions, shared) = (target.clone(), Arc::clone(&record));
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = session::write_to_all(&sessions, &shared) => {}
                    // An error means that the writer was dropped: it ends as well.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("writer".into()).spawn(body).map_err(WriterError::Thread)?;
        Ok(Self { target: target.clone(), record, stop, thread: Some(thread) })
    }

    /// What has happened so far.
    pub fn so_far(&self) -> Record {
        lock(&self.record).clone()
    }

    /// The last acknowledged commit so far.
    pub fn last_commit(&self) -> Option<Commit> {
        lock(&self.record).commits().last().copied()
    }

    /// The first commit that was begun after `instant`, if there is one yet.
    pub fn commit_begun_after(&self, instant: BootTime) -> Option<Commit> {
        lock(&self.record).commits().iter().find(|commit| commit.begun > instant).copied()
    }

    /// Stops writing and returns all that happened.
    pub fn stop(mut self) -> Result<Record, WriterError> {
        self.end()?;
        Ok(self.so_far())
    }

    /// The acknowledged rows so far that a server does not have. Empty is what everybody wants.
    pub fn missing_on(&self, server: SocketAddr) -> Result<Vec<i64>, WriterError> {
        missing_on(&self.so_far(), &self.target, server)
    }

    fn end(&mut self) -> Result<(), WriterError> {
        self.stop.send_replace(true);
        self.thread.take().map_or(Ok(()), JoinHandle::join).map_err(|_| WriterError::Panicked)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Losing it is right: nobody waits for the record any more.
        let _ = self.end();
    }
}

/// The acknowledged rows of a record that a server does not have.
pub fn missing_on(record: &Record, target: &Target, server: SocketAddr) -> Result<Vec<i64>, WriterError> {
    /// Longest time for reading all rows back, some ten thousand of them.
    const LIMIT: Duration = Duration::from_secs(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WriterError::Thread)?;
    let read =
        runtime.block_on(async { tokio::time::timeout(LIMIT, session::rows(target, server, record.first())).await });
    let present = read
        .map_err(|_| WriterError::Slow { server, seconds: LIMIT.as_secs() })?
        .map_err(|source| WriterError::Read { server, source })?;
    Ok(record.commits().iter().map(|commit| commit.id).filter(|id| !present.contains(id)).collect())
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
