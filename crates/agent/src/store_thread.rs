//! The thread of the embedded store, with a runtime of its own.
//!
//! Raft wakes up some forty times a second for ever. Among the services each of these would also wake a second thread, which looks for work
//! and finds none; and nothing that a service does on a slow disk can hold up a heartbeat here. Nothing may run on it that waits otherwise
//! than by `await`.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads beside it for files of the store: the log has one of its own already.
const BLOCKING_THREADS: usize = 2;

/// The thread; ends when this is dropped, and with it whatever the store still has running.
#[derive(Debug)]
pub(crate) struct StoreThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    /// Starts it, with a stack of that size.
    pub(crate) fn start(stack_bytes: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_stack_size(stack_bytes)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("store".to_owned()).stack_size(stack_bytes).spawn(move || {
            // Told to stop, or nobody is left who could tell it: the same.
            drop(runtime.block_on(stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits for a future whose tasks, timers and sockets are to be the thread's.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread failed; this is a bug");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spawned_runs_on_the_thread_and_ends_with_it() {
        let thread = StoreThread::start(256 * 1024).unwrap();
        let spawned = thread.block_on(async {
            let name = || std::thread::current().name().map(str::to_owned);
            tokio::spawn(async move { name() }).await.unwrap()
        });
        assert_eq!(spawned.as_deref(), Some("store"));
        let (held, ended) = std::sync::mpsc::channel::<()>();
        thread.block_on(async {
            let task = tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            assert!(!task.is_finished());
        });
        drop(thread);
        assert_eq!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected), "the task was dropped");
    }
}
