//! The agent's side: asks the guard below which it runs.
//!
//! Calls wait for the answer, at most [`ANSWER_TIMEOUT`]; the guard answers within microseconds or not at all. Events go to
//! the function given to [`Client::from_environment`], on whichever thread happened to read them: that of a call, or that of
//! [`Client::receive`], which is to be called whenever the descriptor is readable (it may be polled by an asynchronous
//! runtime). Events tell that something changed; [`Client::status`] says how things are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pgbaton_sys::clock::boottime;
use pgbaton_sys::pidfd::PidFd;
use pgbaton_sys::seqpacket::{Received, SeqPacket};
use pgbaton_sys::{Pid, Signal, process, proctree};

use crate::wire::{
    Disarm, MAX_REPLY, Postmaster, Refusal, Reply, Request, ServerCommand, ServerExit, Status, WireError,
};

/// Environment variable that holds the number of the inherited socket.
pub const FD_VARIABLE: &str = "PGBATON_GUARD_FD";

/// Number under which the agent inherits the socket.
pub const FD_NUMBER: RawFd = 3;

/// How long a call waits for the guard, nanoseconds. A guard that takes longer is frozen or dead: kill it
/// ([`Client::kill_guard`]), and the outer guard kills the server and begins anew.
pub const ANSWER_TIMEOUT: u64 = 1_000_000_000;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This process was not started by a guard.
    #[error("not started by a guard: {FD_VARIABLE} is not set to a guard's socket")]
    NoGuard,
    /// The guard refused.
    #[error("the guard refused to {operation} (error number {number})")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Error number of the operating system, zero for none.
        number: i32,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The guard did not answer in time.
    #[error("the guard did not answer within a second when asked to {0}")]
    NoAnswer(&'static str),
    /// The guard is dead.
    #[error("the guard is gone")]
    Gone,
    /// The guard's answer is not one to the question.
    #[error("the guard gave an unfitting answer when asked to {0}")]
    Unfitting(&'static str),
    /// The guard said something that was not understood.
    #[error("cannot understand the guard")]
    Answer(#[source] WireError),
    /// The request cannot be expressed.
    #[error("cannot ask the guard to {operation}")]
    Wire {
        /// What was asked.
        operation: &'static str,
        /// What is wrong with it.
        #[source]
        source: WireError,
    },
    /// The socket failed.
    #[error("cannot speak with the guard")]
    Io(#[from] io::Error),
}

/// What the guard tells by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The postmaster has ended; what it left is being killed.
    ServerExited(ServerExit),
    /// No process of the server is left; another may be started.
    TreeEmpty,
    /// The inner guard is dead. The outer one kills this process in a moment; if it does not, it is dead too, and
    /// [`kill_abandoned`] is due.
    GuardGone,
}

/// The connection to the guard.
pub struct Client {
    socket: SeqPacket,
    guard: PidFd,
    sink: Box<dyn Fn(Event) + Send + Sync>,
    /// Last sequence number used. Held during a call, so that answers meet their questions.
    sequence: Mutex<u32>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Client {
    /// Takes over the socket that the guard left to this process, once; `sink` gets the events. It must return soon and
    /// must not call the client.
    pub fn from_environment(sink: impl Fn(Event) + Send + Sync + 'static) -> Result<Self, ClientError> {
        static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let number = std::env::var(FD_VARIABLE).ok().and_then(|number| number.parse::<RawFd>().ok());
        let number = number.filter(|number| *number > 2).ok_or(ClientError::NoGuard)?;
        if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(ClientError::NoGuard);
        }
        let socket = SeqPacket::inherited(number).map_err(|_| ClientError::NoGuard)?;
        let parent = process::parent_pid().ok_or(ClientError::NoGuard)?;
        let guard = PidFd::open(parent)?;
        // If the guard died in between, its number may be another's by now: the parent tells.
        if process::parent_pid() != Some(parent) {
            return Err(ClientError::Gone);
        }
        Ok(Self { socket, guard, sink: Box::new(sink), sequence: Mutex::new(0) })
    }

    /// How things stand.
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask("tell its status", |sequence| Ok(Request::Status.encode(sequence)))? {
            Reply::Status(status) => Ok(status),
            _ => Err(ClientError::Unfitting("tell its status")),
        }
    }

    /// Starts a server. Refused while a process of another is there, and for a primary unless a deadline in the
    /// future is held.
    pub fn start(&self, command: &ServerCommand) -> Result<Postmaster, ClientError> {
        match self.ask("start the server", |sequence| command.encode(sequence))? {
            Reply::Started(postmaster) => Ok(postmaster),
            _ => Err(ClientError::Unfitting("start the server")),
        }
    }

    /// Sends a signal, by its number, to the postmaster. SIGUSR1 makes the server count as a primary until it is gone.
    pub fn signal(&self, signal: u8) -> Result<(), ClientError> {
        self.tell("signal the postmaster", &Request::Signal(signal))
    }

    /// Hands over a deadline, nanoseconds on `CLOCK_BOOTTIME`: the server is killed then. Within an epoch it never moves back,
    /// epochs never decrease, and it must lie in the future but not more than an hour away.
    pub fn extend(&self, epoch: u64, deadline: u64) -> Result<(), ClientError> {
        self.tell("hold a deadline", &Request::Extend { epoch, deadline })
    }

    /// Has the guard hold no deadline. Refused while a process of a primary is there, but for a pause.
    pub fn disarm(&self, reason: Disarm) -> Result<(), ClientError> {
        self.tell("hold no deadline", &Request::Disarm(reason))
    }

    /// Kills the whole server now; [`Event::TreeEmpty`] tells when it is gone.
    pub fn kill(&self) -> Result<(), ClientError> {
        self.tell("kill the server", &Request::Kill)
    }

    /// Tells that this agent has started well.
    pub fn ready(&self) -> Result<(), ClientError> {
        self.tell("note that the agent is ready", &Request::Ready)
    }

    /// Reads what has arrived, handing events to the sink. To be called when the descriptor is readable.
    pub fn receive(&self) -> Result<(), ClientError> {
        let _sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain()
    }

    /// Kills the inner guard; the outer one then kills the server and this process, and begins anew. For a guard that does
    /// not answer.
    pub fn kill_guard(&self) -> Result<(), ClientError> {
        Ok(self.guard.send(Signal::KILL)?)
    }

    fn tell(&self, operation: &'static str, request: &Request<'_>) -> Result<(), ClientError> {
        match self.ask(operation, |sequence| Ok(request.encode(sequence)))? {
            Reply::Ack => Ok(()),
            _ => Err(ClientError::Unfitting(operation)),
        }
    }

    fn ask(
        &self,
        operation: &'static str,
        encode: impl FnOnce(u32) -> Result<Vec<u8>, WireError>,
    ) -> Result<Reply, ClientError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        // Zero marks events.
        *sequence = sequence.checked_add(1).unwrap_or(1);
        let packet = encode(*sequence).map_err(|source| ClientError::Wire { operation, source })?;
        self.socket.send(&packet).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ClientError::NoAnswer(operation),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Gone,
            _ => ClientError::Io(error),
        })?;
        let limit = boottime().saturating_add(ANSWER_TIMEOUT);
        loop {
            match self.read()? {
                // An answer to an earlier call that had given up is of no use to anyone.
                Some((number, reply)) if number == *sequence => {
                    return match reply {
                        Reply::Refused(refusal, number) => Err(ClientError::Refused { operation, number, refusal }),
                        reply => Ok(reply),
                    };
                }
                Some(_) => {}
                None => {
                    let left_ms = u32::try_from(limit.saturating_sub(boottime()) / 1_000_000).unwrap_or(u32::MAX);
                    if left_ms == 0 {
                        return Err(ClientError::NoAnswer(operation));
                    }
                    self.socket.wait(left_ms)?;
                }
            }
        }
    }

    fn drain(&self) -> Result<(), ClientError> {
        // Answers that nobody waits for any more are dropped.
        while self.read()?.is_some() {}
        Ok(())
    }

    /// The next packet, events having gone to the sink.
    fn read(&self) -> Result<Option<(u32, Reply)>, ClientError> {
        // Longer than any reply known, for those of a newer guard.
        let mut buffer = [0; MAX_REPLY * 4];
        match self.socket.receive(&mut buffer)? {
            Received::Nothing => Ok(None),
            Received::Closed => {
                (self.sink)(Event::GuardGone);
                Err(ClientError::Gone)
            }
            Received::TooLong => Err(ClientError::Answer(WireError::TooLong)),
            Received::Packet(length) => {
                let (sequence, reply) = Reply::decode(&buffer[..length]).map_err(ClientError::Answer)?;
                match reply {
                    Reply::ServerExited(exit) => (self.sink)(Event::ServerExited(exit)),
                    Reply::TreeEmpty => (self.sink)(Event::TreeEmpty),
                    _ => {}
                }
                Ok(Some((sequence, reply)))
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Kills every process whose working directory is `data_directory`, until two looks in a row find none: what is left of a server
/// when both guards are dead. For an agent whose guard is gone and that still lives a moment later; it must end then.
pub fn kill_abandoned(data_directory: &Path) -> io::Result<()> {
    let data_directory = data_directory.canonicalize()?;
    let mut empty = 0;
    while empty < 2 {
        let found = proctree::with_working_directory(&data_directory)?;
        empty = if found.is_empty() { empty + 1 } else { 0 };
        for pid in found {
            kill_held(pid, &data_directory)?;
        }
    }
    Ok(())
}

/// Error number for "no such process" on every Linux.
const ESRCH: i32 = 3;

/// Kills `pid` if, held by a descriptor, it still works in `directory`.
fn kill_held(pid: Pid, directory: &Path) -> io::Result<()> {
    let gone = |error: io::Error| if error.raw_os_error() == Some(ESRCH) { Ok(()) } else { Err(error) };
    match PidFd::open(pid) {
        Ok(held) if proctree::works_in(pid, directory) => {
            held.send(Signal::KILL).or_else(gone)?;
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => gone(error),
    }
}
