//! Pipes through which long transfers are spliced, without a copy through this process.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags};

/// What a pipe may hold: as much as an unprivileged process may ask for.
pub(crate) const PIPE_BYTES: usize = 1 << 20;
/// Empty pipes that are kept for the next long transfer.
const PIPES_KEPT: usize = 16;
/// How everything is spliced.
pub(crate) const SPLICE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// One pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    /// Bytes that are in it.
    pub(crate) holds: usize,
}

/// The empty pipes of a worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Vec<Pipe>);

impl Pipes {
    /// One that is kept, or a new one; none when there are no descriptors left: then it is copied on.
    pub(crate) fn take(&mut self) -> Option<Box<Pipe>> {
        let made = self.0.pop().or_else(|| {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // With less than that it works as well.
            let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
            Some(Pipe { read, write, holds: 0 })
        });
        made.map(Box::new)
    }

    /// Keeps it, unless there are enough, or something is left in it.
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        if pipe.holds == 0 && self.0.len() < PIPES_KEPT {
            self.0.push(pipe);
        }
    }
}
