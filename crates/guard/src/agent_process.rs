//! The agent as a child of the inner guard: started, and started again when it dies.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use pgbaton_sys::Pid;
use pgbaton_sys::Signal;
use pgbaton_sys::child::ChildSetup;
use pgbaton_sys::seqpacket::{Received, SeqPacket};
use pgbaton_sys::spawn::{StringTable, spawn};

use crate::client::{FD_NUMBER, FD_VARIABLE};
use crate::note::note;
use crate::wire::Reply;
use crate::{GuardError, c_path, c_string, environment};

/// Most arguments and environment variables of the agent: its own are few, the environment is the service's.
const MOST_STRINGS: usize = 1024;

/// The agent's command line, prepared so that starting it needs no memory.
#[derive(Debug)]
pub(crate) struct AgentCommand {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl AgentCommand {
    pub(crate) fn prepare(program: &Path, arguments: &[OsString]) -> Result<Self, GuardError> {
        let mut environment = environment(FD_VARIABLE)?;
        environment.push(c_string(format!("{FD_VARIABLE}={FD_NUMBER}").as_ref())?);
        let arguments = arguments.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
        if arguments.len() >= MOST_STRINGS || environment.len() >= MOST_STRINGS {
            return Err(GuardError::CommandLine);
        }
        Ok(Self { program: c_path(program)?, arguments, environment })
    }

    fn start(&self, oom_score_adj: Option<i16>) -> io::Result<(Pid, SeqPacket)> {
        let (ours, theirs) = SeqPacket::pair()?;
        let full = || io::Error::from(io::ErrorKind::ArgumentListTooLong);
        let mut arguments = StringTable::<MOST_STRINGS>::new();
        let mut environment = StringTable::<MOST_STRINGS>::new();
        if !self.arguments.iter().all(|text| arguments.push(text))
            || !self.environment.iter().all(|text| environment.push(text))
        {
            return Err(full());
        }
        // No parent-death signal: when both guards are killed at once, the agent is who is left to kill the server.
        let setup = ChildSetup {
            new_session: true,
            inherit: Some((theirs.into_fd(), FD_NUMBER)),
            oom_score_adj,
            ..ChildSetup::default()
        };
        let pid = spawn(&self.program, &arguments, &environment, None, &setup)?;
        Ok((pid, ours))
    }
}

/// First and longest pause between two starts, nanoseconds. An agent that ran for a while is started again at once: the lease
/// runs on while it is away.
const FIRST_PAUSE: u64 = 100_000_000;
const LONGEST_PAUSE: u64 = 5_000_000_000;

/// An agent that lived this long, nanoseconds, had started well.
const LIVED: u64 = 10_000_000_000;

/// Pauses between starts of something that keeps dying: none, then 0.1 s, doubling up to 5 s.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    started: u64,
    short_lives: u32,
}

impl Restarts {
    pub(crate) fn started(&mut self, now: u64) {
        self.started = now;
    }

    /// When to start it again, it having ended at `now`.
    pub(crate) fn next(&mut self, now: u64) -> u64 {
        if now.saturating_sub(self.started) >= LIVED {
            self.short_lives = 0;
        }
        let pause = match self.short_lives {
            0 => 0,
            lives => (FIRST_PAUSE << (lives - 1).min(10)).min(LONGEST_PAUSE),
        };
        self.short_lives = self.short_lives.saturating_add(1);
        now.saturating_add(pause)
    }
}

/// The agent's process, and the socket to it.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    command: &'a AgentCommand,
    oom_score_adj: Option<i16>,
    running: Option<(Pid, SeqPacket)>,
    restarts: Restarts,
    /// When to start it; none while it runs, or when it shall not run again.
    start_at: Option<u64>,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(command: &'a AgentCommand, oom_score_adj: Option<i16>, now: u64) -> Self {
        Self { command, oom_score_adj, running: None, restarts: Restarts::default(), start_at: Some(now) }
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(|(pid, _)| *pid)
    }

    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, socket)| socket.as_fd())
    }

    pub(crate) fn start_at(&self) -> Option<u64> {
        self.start_at
    }

    /// Starts the agent if it is time.
    pub(crate) fn start_if_due(&mut self, now: u64) {
        if self.start_at.is_none_or(|at| now < at) {
            return;
        }
        self.restarts.started(now);
        match self.command.start(self.oom_score_adj) {
            Ok(running) => {
                self.running = Some(running);
                self.start_at = None;
            }
            Err(error) => {
                self.start_at = Some(self.restarts.next(now).max(now + FIRST_PAUSE));
                note(format_args!("cannot start the agent: {error}"));
            }
        }
    }

    /// The agent's process was reaped: forget it, and start it again if `again`.
    pub(crate) fn ended(&mut self, now: u64, again: bool) {
        self.running = None;
        self.start_at = again.then(|| self.restarts.next(now));
    }

    /// Never start it again.
    pub(crate) fn give_up(&mut self) {
        self.start_at = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some((pid, _)) = &self.running {
            // It is our child and not reaped, so this is the right process; it may have ended a moment ago.
            let _ = pgbaton_sys::process::send(*pid, signal);
        }
    }

    /// The next packet from the agent. The agent's end is seen by reaping it, so a closed socket is no packet.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Option<Received> {
        let (_, socket) = self.running.as_ref()?;
        match socket.receive(buffer) {
            Ok(received @ (Received::Packet(_) | Received::TooLong)) => Some(received),
            Ok(Received::Nothing | Received::Closed) | Err(_) => None,
        }
    }

    /// Sends a packet, if the agent reads: a frozen one loses answers and events, and asks for the status when it is back.
    pub(crate) fn send(&self, sequence: u32, reply: &Reply) {
        if let Some((_, socket)) = &self.running {
            // Full or closed, as said above.
            let _ = socket.send(reply.encode(sequence).bytes());
        }
    }

    /// The agent closed its end while it goes on: nothing will come from it any more, and polling it would spin.
    pub(crate) fn closed(&self) -> bool {
        self.running.as_ref().is_some_and(|(_, socket)| socket.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::{LIVED, Restarts};

    const MS: u64 = 1_000_000;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait() {
        let mut restarts = Restarts::default();
        restarts.started(1000 * MS);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push((restarts.next(1000 * MS) - 1000 * MS) / MS);
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        restarts.started(1000 * MS);
        assert_eq!(restarts.next(1000 * MS + LIVED), 1000 * MS + LIVED);
    }
}
