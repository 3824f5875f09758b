//! One of the two connections of a session, with what the kernel has said of it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::connect;
use crate::pipe::{PIPE_BYTES, SPLICE};

/// What the kernel is asked to tell of a connection: each change once (epoll(7), "edge-triggered").
pub(crate) const TELL: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// After these a read that is short is not the last one.
const HUNG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// A connection that never blocks.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) stream: TcpStream,
    /// A read may give something.
    readable: bool,
    /// A write may take something.
    writable: bool,
    /// The other end has ended its half, or all.
    hung_up: bool,
}

impl Side {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, readable: false, writable: false, hung_up: false }
    }

    /// Takes what the kernel has told.
    pub(crate) fn told(&mut self, events: EventFlags) {
        self.hung_up |= events.intersects(HUNG_UP);
        self.readable |= self.hung_up || events.contains(EventFlags::IN);
        self.writable |= self.hung_up || events.contains(EventFlags::OUT);
    }

    /// Reads what there is, as far as it fits; 0 at the end, none when nothing is there.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        let room = buffer.len();
        let read = unless_blocked(retried(|| rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::empty())))?;
        let read = read.map(|(_, bytes)| bytes);
        // A short read has taken all: whatever comes later is told. The end may have been told already.
        self.readable = read.is_some_and(|bytes| bytes == room) || (read.is_some() && self.hung_up);
        Ok(read)
    }

    /// Writes as much as is taken.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while self.writable && sent < bytes.len() {
            let rest = &bytes[sent..];
            match unless_blocked(retried(|| rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL)))? {
                Some(taken) => sent += taken,
                None => self.writable = false,
            }
        }
        Ok(sent)
    }

    /// Moves into a pipe what there is; 0 at the end, none when nothing is there.
    pub(crate) fn splice_to(&mut self, pipe: &OwnedFd) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        let splice = || rustix::pipe::splice(&self.stream, None, pipe, None, PIPE_BYTES, SPLICE);
        let moved = unless_blocked(retried(splice))?;
        self.readable = moved.is_some();
        Ok(moved)
    }

    /// Moves out of a pipe what it `holds`, as much as is taken; none when nothing is.
    pub(crate) fn splice_from(&mut self, pipe: &OwnedFd, holds: usize) -> io::Result<Option<usize>> {
        if !self.writable {
            return Ok(None);
        }
        let moved = unless_blocked(retried(|| rustix::pipe::splice(pipe, None, &self.stream, None, holds, SPLICE)))?;
        self.writable = moved.is_some();
        Ok(moved)
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Whoever is at the other end hears at once when this is closed.
    pub(crate) fn reset_at_close(&self) {
        connect::reset_at_close(&self.stream);
    }
}

fn retried<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

fn unless_blocked<T>(outcome: Result<T, Errno>) -> io::Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
