//! Copying between a client and a server, both ways, in one task. A session that says nothing holds no buffer: bytes go through one of the
//! thread, and only what the other side does not take at once is kept. Long transfers are spliced, without a copy through this process.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::connect::reset_at_close;
use crate::sessions::{Registered, Why};
use crate::worker::Clock;

/// What is copied at once: many pages of a result, and no more than a socket takes at once anyway.
const BUFFER_BYTES: usize = 64 << 10;
/// So many full buffers in a row are a long transfer (a dump, a base backup): below that a splice costs more than it saves.
const FULL_BEFORE_SPLICE: u8 = 8;
/// What a pipe may hold: as much as an unprivileged process may ask for.
const PIPE_BYTES: usize = 1 << 20;
/// Pipes that a thread keeps for the next long transfer.
const PIPES_KEPT: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By one of the two.
    Itself,
    /// From outside.
    Outside(Why),
}

/// The pipe through which bytes are spliced.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes that are in it.
    holds: usize,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// What the other side has not taken yet, from `taken` on.
    waiting: Vec<u8>,
    taken: usize,
    /// Full buffers in a row.
    full: u8,
    pipe: Option<Box<Pipe>>,
    /// The sender has said that nothing more comes.
    ended: bool,
    /// The receiver has been told so, or hears it when its connection is closed.
    told: bool,
    /// Bytes that were passed on.
    bytes: u64,
}

/// A session that copies.
#[derive(Debug)]
pub(crate) struct Pump {
    client: TcpStream,
    server: TcpStream,
    up: Flow,
    down: Flow,
    registered: Registered,
    clock: Rc<Clock>,
}

impl Pump {
    /// `first` is what the server has said already.
    pub(crate) fn new(
        client: TcpStream,
        server: TcpStream,
        first: Vec<u8>,
        registered: Registered,
        clock: Rc<Clock>,
    ) -> Self {
        // With the server's last byte the session ends.
        let down = Flow { waiting: first, told: true, ..Flow::default() };
        Self { client, server, up: Flow::default(), down, registered, clock }
    }

    /// Bytes from and to the client.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.up.bytes, self.down.bytes)
    }
}

impl Future for Pump {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        if let Some(why) = this.registered.handle.ended(context) {
            reset_at_close(&this.client);
            reset_at_close(&this.server);
            return Poll::Ready(Ended::Outside(why));
        }
        let before = this.up.bytes + this.down.bytes;
        let up = this.up.poll(context, &mut this.client, &mut this.server);
        let down = this.down.poll(context, &mut this.server, &mut this.client);
        if this.up.bytes + this.down.bytes != before {
            this.registered.handle.active(this.clock.tick());
        }
        match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Itself),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                // One side is gone or was reset: the other one hears it as a reset, too.
                reset_at_close(&this.client);
                reset_at_close(&this.server);
                Poll::Ready(Ended::Itself)
            }
            // A server that has ended a session reads nothing more; PostgreSQL's clients never end only their half.
            (_, Poll::Ready(Ok(()))) => Poll::Ready(Ended::Itself),
            _ => Poll::Pending,
        }
    }
}

impl Flow {
    fn poll(&mut self, context: &mut Context<'_>, from: &mut TcpStream, to: &mut TcpStream) -> Poll<io::Result<()>> {
        loop {
            if self.pipe.is_some() {
                ready!(self.splice(context, from, to))?;
                continue;
            }
            ready!(self.send_waiting(context, to))?;
            if self.ended {
                if !self.told {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.told = true;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(self.copy_once(context, from, to))?;
            if self.full >= FULL_BEFORE_SPLICE && self.waiting.is_empty() && !self.ended {
                self.full = 0;
                self.pipe = Pipe::take();
            }
        }
    }

    /// Sends what is left of an earlier read.
    fn send_waiting(&mut self, context: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<()>> {
        while self.taken < self.waiting.len() {
            let sent = ready!(Pin::new(&mut *to).poll_write(context, &self.waiting[self.taken..]))?;
            self.taken += sent;
            self.bytes += sent as u64;
        }
        if !self.waiting.is_empty() {
            self.waiting = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and sends that at once as far as it is taken.
    fn copy_once(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *from).poll_read(context, &mut read))?;
            let bytes = read.filled();
            self.full = if bytes.len() == BUFFER_BYTES { self.full.saturating_add(1) } else { 0 };
            self.ended = bytes.is_empty();
            let mut sent = 0;
            while sent < bytes.len() {
                match Pin::new(&mut *to).poll_write(context, &bytes[sent..]) {
                    Poll::Ready(taken) => sent += taken?,
                    Poll::Pending => break,
                }
            }
            self.bytes += sent as u64;
            if sent < bytes.len() {
                self.waiting = bytes[sent..].to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Moves bytes through the pipe until one side would block or the sender pauses, which ends the long transfer.
    fn splice(&mut self, context: &mut Context<'_>, from: &mut TcpStream, to: &mut TcpStream) -> Poll<io::Result<()>> {
        loop {
            let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
            while pipe.holds > 0 {
                ready!(to.poll_write_ready(context))?;
                let moved = to.try_io(Interest::WRITABLE, || {
                    Ok(rustix::pipe::splice(&pipe.read, None, &*to, None, pipe.holds, flags())?)
                });
                match moved {
                    Ok(moved) => {
                        pipe.holds -= moved;
                        self.bytes += moved as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            let moved = from.try_io(Interest::READABLE, || {
                Ok(rustix::pipe::splice(&*from, None, &pipe.write, None, PIPE_BYTES, flags())?)
            });
            match moved {
                Ok(0) => {
                    self.ended = true;
                    self.give_back();
                }
                Ok(moved) => pipe.holds = moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.give_back(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(pipe) = self.pipe.take().filter(|pipe| pipe.holds == 0) {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < PIPES_KEPT {
                    pipes.push(*pipe);
                }
            });
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

impl Pipe {
    /// One of the thread's, or a new one; none when there are no descriptors left: then it is copied on.
    fn take() -> Option<Box<Self>> {
        let kept = PIPES.with_borrow_mut(Vec::pop);
        let made = kept.or_else(|| {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // With less than that it works as well.
            let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
            Some(Self { read, write, holds: 0 })
        });
        made.map(Box::new)
    }
}
