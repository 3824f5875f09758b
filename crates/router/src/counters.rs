use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What one port has done, for metrics. A reload that keeps the port keeps them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were accepted.
    pub accepted: AtomicU64,
    /// Sessions now.
    pub sessions: AtomicUsize,
    /// Connections that wait for a server now.
    pub held: AtomicUsize,
    /// Connections that were refused: too many, nobody to go to in time, a port that is no more, or not PostgreSQL's protocol.
    pub refused: AtomicU64,
    /// Cancel requests that were passed on.
    pub cancels: AtomicU64,
    /// Sessions that were ended because their server is not the one any more.
    pub cut: AtomicU64,
    /// Sessions that were ended because nothing was said for too long.
    pub idle: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One more, as long as this lives.
pub(crate) struct Gauge<'a>(&'a AtomicUsize);

impl<'a> Gauge<'a> {
    pub(crate) fn up(gauge: &'a AtomicUsize) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
