//! A client that commits as fast as it can, and knows when it asked for each commit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use pgbaton_sys::clock::boottime;

use crate::host::{Host, await_that};

/// A thread that inserts rows 1, 2, 3, ... into table `w` until the server is gone.
pub(crate) struct Writer {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    sent: Mutex<Vec<u64>>,
}

impl Writer {
    pub(crate) fn begin(host: &Host) -> Self {
        let mut client = host.connect().unwrap();
        client
            .batch_execute("create table if not exists w (n bigint, at timestamptz default clock_timestamp())")
            .unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let insert = client.prepare("insert into w values ($1)").unwrap();
            for row in 1_i64.. {
                let sent = boottime();
                if theirs.stop.load(Ordering::SeqCst) || client.execute(&insert, &[&row]).is_err() {
                    return;
                }
                theirs.sent.lock().unwrap().push(sent);
                theirs.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { thread, shared }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until at least one commit was asked for and acknowledged from now on.
    pub(crate) fn await_commit(&self) {
        let before = self.acknowledged();
        // One may have been under way already.
        await_that("a commit", || self.acknowledged(), |now| *now > before + 1);
    }

    /// Like [`Self::await_commit`], but under a lease that ends soon: on a slow machine its deadline may pass before the
    /// commits, and the server goes away with it; not before.
    pub(crate) fn await_commit_until(&self, deadline: u64) {
        let before = self.acknowledged();
        await_that(
            "a commit or the writer's end",
            || (self.acknowledged(), self.running()),
            |(now, running)| *now > before + 1 || !*running,
        );
        assert!(self.acknowledged() > before + 1 || boottime() >= deadline, "the server went away before its deadline");
    }

    pub(crate) fn running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until the server has gone away under the writer; the times at which acknowledged commits were asked for.
    pub(crate) fn await_failure(self) -> Vec<u64> {
        await_that("the writer losing its server", || self.running(), |running| !running);
        self.thread.join().unwrap();
        std::mem::take(&mut self.shared.sent.lock().unwrap())
    }

    /// Stops it; the number of acknowledged rows.
    pub(crate) fn stop(self) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.shared.acknowledged.load(Ordering::SeqCst)
    }
}
