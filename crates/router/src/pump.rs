//! Copying between a client and a server, both ways. A session that says nothing holds no buffer: bytes go through one of the
//! worker, and only what the other side does not take at once is kept. Long transfers are spliced, without a copy through this process.

use std::io;
use std::net::TcpStream;

use crate::pipe::{Pipe, Pipes};
use crate::side::Side;

/// What is copied at once: many pages of a result, and no more than a socket takes at once anyway.
const BUFFER_BYTES: usize = 64 << 10;
/// So many full buffers in a row are a long transfer (a dump, a base backup): below that a splice costs more than it saves.
const FULL_BEFORE_SPLICE: u8 = 8;
/// Reads of one session, each way, before others are next: 1 MiB through the buffer, 16 MiB at most through a pipe.
const READS_IN_A_TURN: usize = 16;

/// What all sessions of a worker use, one at a time.
#[derive(Debug)]
pub(crate) struct Tools {
    buffer: Box<[u8]>,
    pipes: Pipes,
}

impl Default for Tools {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), pipes: Pipes::default() }
    }
}

/// How it goes on after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When the kernel says more of one of the connections.
    Waits,
    /// After the others have had their turn: there is more, of which nobody tells again.
    Again,
    /// Not at all.
    Over,
}

/// A session that copies.
#[derive(Debug)]
pub(crate) struct Pump {
    pub(crate) client: Side,
    pub(crate) server: Side,
    up: Flow,
    down: Flow,
}

impl Pump {
    /// `first` is what the server has said already.
    pub(crate) fn new(client: TcpStream, server: TcpStream, first: Vec<u8>) -> Self {
        // With the server's last byte the session ends.
        let down = Flow { waiting: first, told: true, ..Flow::default() };
        Self { client: Side::new(client), server: Side::new(server), up: Flow::default(), down }
    }

    /// Bytes from and to the client.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.up.bytes, self.down.bytes)
    }

    /// Copies what can be copied now.
    pub(crate) fn turn(&mut self, tools: &mut Tools) -> Next {
        let up = self.up.run(tools, &mut self.client, &mut self.server);
        let down = self.down.run(tools, &mut self.server, &mut self.client);
        match (up, down) {
            (Err(_), _) | (_, Err(_)) => {
                // One side is gone or was reset: the other one hears it as a reset, too.
                self.reset_at_close();
                Next::Over
            }
            // A server that has ended a session reads nothing more; PostgreSQL's clients never end only their half.
            (_, Ok(Next::Over)) => Next::Over,
            (Ok(Next::Again), _) | (_, Ok(Next::Again)) => Next::Again,
            _ => Next::Waits,
        }
    }

    /// Both hear a reset when this is dropped.
    pub(crate) fn reset_at_close(&self) {
        self.client.reset_at_close();
        self.server.reset_at_close();
    }
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

impl Flow {
    fn run(&mut self, tools: &mut Tools, from: &mut Side, to: &mut Side) -> io::Result<Next> {
        for _ in 0..READS_IN_A_TURN {
            if !self.empty_pipe(to)? || !self.send_waiting(to)? {
                return Ok(Next::Waits);
            }
            if self.ended {
                if !self.told {
                    to.end()?;
                    self.told = true;
                }
                return Ok(Next::Over);
            }
            let goes_on = if self.pipe.is_some() { self.splice(tools, from)? } else { self.copy(tools, from, to)? };
            if !goes_on {
                return Ok(Next::Waits);
            }
        }
        Ok(Next::Again)
    }

    /// Moves on what is in the pipe. Whether nothing is left there.
    fn empty_pipe(&mut self, to: &mut Side) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        while pipe.holds > 0 {
            let Some(moved) = to.splice_from(&pipe.read, pipe.holds)? else { return Ok(false) };
            pipe.holds -= moved;
            self.bytes += moved as u64;
        }
        Ok(true)
    }

    /// Sends what is left of an earlier read. Whether nothing is left.
    fn send_waiting(&mut self, to: &mut Side) -> io::Result<bool> {
        if self.waiting.is_empty() {
            return Ok(true);
        }
        let sent = to.write(&self.waiting[self.taken..])?;
        self.taken += sent;
        self.bytes += sent as u64;
        if self.taken < self.waiting.len() {
            return Ok(false);
        }
        self.waiting = Vec::new();
        self.taken = 0;
        Ok(true)
    }

    /// Reads once, and sends that at once as far as it is taken. Whether there was anything.
    fn copy(&mut self, tools: &mut Tools, from: &mut Side, to: &mut Side) -> io::Result<bool> {
        let Some(read) = from.read(&mut tools.buffer)? else { return Ok(false) };
        let bytes = &tools.buffer[..read];
        self.ended = bytes.is_empty();
        let sent = to.write(bytes)?;
        self.bytes += sent as u64;
        if sent < read {
            self.waiting = bytes[sent..].to_vec();
        }
        self.full = if read == BUFFER_BYTES { self.full.saturating_add(1) } else { 0 };
        if self.full >= FULL_BEFORE_SPLICE {
            self.full = 0;
            self.pipe = tools.pipes.take();
        }
        Ok(true)
    }

    /// Moves into the empty pipe what there is. It is given back when the sender pauses, which ends the long transfer.
    fn splice(&mut self, tools: &mut Tools, from: &mut Side) -> io::Result<bool> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(true) };
        match from.splice_to(&pipe.write)? {
            Some(moved) if moved > 0 => {
                pipe.holds = moved;
                self.pipe = Some(pipe);
                Ok(true)
            }
            end => {
                tools.pipes.give_back(*pipe);
                self.ended = end.is_some();
                Ok(self.ended)
            }
        }
    }
}
