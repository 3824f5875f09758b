//! The words between the agent and its guard: little packets over a socket pair.
//!
//! A packet is: version (1 byte, [`VERSION`]), kind (1 byte), sequence number (4 bytes), then the body of that kind. Numbers
//! are little-endian, strings end with a zero byte. A reply carries its request's sequence number, an event zero.
//! Encoding and decoding on the guard's side allocate nothing.
//!
//! Both sides are one binary, but an agent upgraded in place may be newer than its guard: kinds and bodies are only ever added.

use std::ffi::CStr;

/// First byte of each packet.
pub const VERSION: u8 = 1;

/// Longest packet, in bytes: a server's command line and environment are a few KiB.
pub const MAX_PACKET: usize = 32 * 1024;

/// Most arguments of a server's command line; Linux itself allows more, PostgreSQL has no use for them.
pub const MAX_ARGUMENTS: usize = 256;

/// Most environment variables of a server.
pub const MAX_ENVIRONMENT: usize = 512;

const HEADER: usize = 6;

/// Why a packet could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It has another version.
    #[error("packet of version {0}, where {VERSION} was expected")]
    Version(u8),
    /// Its kind is unknown.
    #[error("packet of unknown kind {0}")]
    Kind(u8),
    /// Its body is too short, too long, or has values out of range.
    #[error("malformed packet of kind {0}")]
    Body(u8),
    /// It does not fit [`MAX_PACKET`].
    #[error("packet of more than {MAX_PACKET} bytes")]
    TooLong,
}

/// Why the guard is to hold no deadline from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disarm {
    /// The cluster is paused: the operator takes over the responsibility. Always accepted.
    Paused,
    /// The agent has verified that the server is in recovery, and was started so.
    Standby,
    /// There is no server.
    Stopped,
}

/// What the agent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Say how things stand.
    Status,
    /// Start a server.
    Start(Start<'a>),
    /// Send this signal to the postmaster.
    Signal(u8),
    /// Hold this deadline: `deadline` is nanoseconds on `CLOCK_BOOTTIME`.
    Extend {
        /// The lease's epoch.
        epoch: u64,
        /// When the server must be dead.
        deadline: u64,
    },
    /// Hold no deadline.
    Disarm(Disarm),
    /// Kill the whole server now.
    Kill,
    /// The agent has started well: from now on its end is answered by another start, whatever its exit code.
    Ready,
}

/// A server's command line, as encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The server may come up as a primary; refused unless a deadline is held that lies in the future.
    pub primary: bool,
    /// Number of arguments, the program's path being the first.
    arguments: u16,
    /// Number of environment variables.
    environment: u16,
    /// Working directory, then arguments, then environment.
    strings: &'a [u8],
}

impl<'a> Start<'a> {
    /// The working directory, the arguments and the environment of the server.
    pub fn strings(&self) -> impl Iterator<Item = &'a CStr> {
        let mut rest = self.strings;
        std::iter::from_fn(move || {
            let string = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[string.count_bytes() + 1..];
            Some(string)
        })
    }

    /// Number of arguments.
    pub fn arguments(&self) -> usize {
        usize::from(self.arguments)
    }

    fn decode(body: &'a [u8]) -> Option<Self> {
        let [flags, a0, a1, e0, e1, strings @ ..] = body else { return None };
        let start = Self {
            primary: flags & 1 != 0,
            arguments: u16::from_le_bytes([*a0, *a1]),
            environment: u16::from_le_bytes([*e0, *e1]),
            strings,
        };
        let expected = 1 + start.arguments() + usize::from(start.environment);
        let fits = start.arguments() < MAX_ARGUMENTS && usize::from(start.environment) < MAX_ENVIRONMENT;
        let ends = strings.last() == Some(&0) && start.strings().count() == expected;
        (*flags <= 1 && start.arguments > 0 && fits && ends).then_some(start)
    }
}

/// A server's command line, as the agent has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCommand {
    /// Arguments; the first is the absolute path of `postgres`.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, each `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Working directory.
    pub directory: Vec<u8>,
    /// Whether it may come up as a primary.
    pub primary: bool,
}

impl Request<'_> {
    /// Reads a packet; also gives the sequence number, which is zero if the packet is too short to have one.
    pub fn decode(packet: &[u8]) -> (u32, Result<Request<'_>, WireError>) {
        let (kind, sequence, body) = match open(packet) {
            Ok(parts) => parts,
            Err((sequence, error)) => return (sequence, Err(error)),
        };
        let request = match (kind, body) {
            (1, []) => Request::Status,
            (2, _) => match Start::decode(body) {
                Some(start) => Request::Start(start),
                None => return (sequence, Err(WireError::Body(kind))),
            },
            (3, [signal]) => Request::Signal(*signal),
            (4, _) if body.len() == 16 => Request::Extend { epoch: number(body, 0), deadline: number(body, 8) },
            (5, [0]) => Request::Disarm(Disarm::Paused),
            (5, [1]) => Request::Disarm(Disarm::Standby),
            (5, [2]) => Request::Disarm(Disarm::Stopped),
            (6, []) => Request::Kill,
            (7, []) => Request::Ready,
            (1..=7, _) => return (sequence, Err(WireError::Body(kind))),
            _ => return (sequence, Err(WireError::Kind(kind))),
        };
        (sequence, Ok(request))
    }

    /// Writes a packet; the agent's side.
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let (kind, body): (u8, Vec<u8>) = match self {
            Self::Status => (1, Vec::new()),
            Self::Start(start) => {
                let mut body = vec![u8::from(start.primary)];
                body.extend(start.arguments.to_le_bytes());
                body.extend(start.environment.to_le_bytes());
                body.extend(start.strings);
                (2, body)
            }
            Self::Signal(signal) => (3, vec![*signal]),
            Self::Extend { epoch, deadline } => (4, [epoch.to_le_bytes(), deadline.to_le_bytes()].concat()),
            Self::Disarm(reason) => (
                5,
                vec![match reason {
                    Disarm::Paused => 0,
                    Disarm::Standby => 1,
                    Disarm::Stopped => 2,
                }],
            ),
            Self::Kill => (6, Vec::new()),
            Self::Ready => (7, Vec::new()),
        };
        let mut packet = header(kind, sequence).to_vec();
        packet.extend(body);
        packet
    }
}

impl ServerCommand {
    /// Writes a `Start` packet. An error when a string has a zero byte in it, or there are too many or too long ones.
    pub fn encode(&self, sequence: u32) -> Result<Vec<u8>, WireError> {
        let mut strings = Vec::new();
        for string in std::iter::once(&self.directory).chain(&self.arguments).chain(&self.environment) {
            if string.contains(&0) {
                return Err(WireError::Body(2));
            }
            strings.extend(string);
            strings.push(0);
        }
        if strings.len() + HEADER + 5 > MAX_PACKET {
            return Err(WireError::TooLong);
        }
        let short =
            |count: usize, most: usize| u16::try_from(count).ok().filter(|_| count < most).ok_or(WireError::Body(2));
        let start = Start {
            primary: self.primary,
            arguments: short(self.arguments.len(), MAX_ARGUMENTS)?,
            environment: short(self.environment.len(), MAX_ENVIRONMENT)?,
            strings: &strings,
        };
        Ok(Request::Start(start).encode(sequence))
    }
}

/// Why the guard did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The packet was not understood.
    #[error("the guard did not understand the request")]
    NotUnderstood,
    /// A server, or a process left of one, is still there.
    #[error("a process of the server is still there")]
    ServerThere,
    /// There is no postmaster.
    #[error("there is no postmaster")]
    NoServer,
    /// No deadline in the future is held, so the server must not be a primary.
    #[error("no lease deadline in the future is held")]
    NotArmed,
    /// The epoch is below one that was held before.
    #[error("the epoch is lower than one held before")]
    EpochPassed,
    /// The deadline has passed already.
    #[error("the deadline has passed")]
    DeadlinePassed,
    /// The deadline is before the one held in the same epoch.
    #[error("the deadline is before the one held")]
    DeadlineEarlier,
    /// The deadline is more than an hour away.
    #[error("the deadline is more than an hour away")]
    DeadlineTooFar,
    /// The server is being killed.
    #[error("the server is being killed")]
    Killing,
    /// A process that ran as a primary, or may have, is still there.
    #[error("a process of a primary is still there")]
    PrimaryThere,
    /// The guard is stopping.
    #[error("the guard is stopping")]
    Stopping,
    /// The operating system refused; its error number is in the reply.
    #[error("the operating system refused")]
    System,
}

impl Refusal {
    const ALL: [Self; 12] = [
        Self::NotUnderstood,
        Self::ServerThere,
        Self::NoServer,
        Self::NotArmed,
        Self::EpochPassed,
        Self::DeadlinePassed,
        Self::DeadlineEarlier,
        Self::DeadlineTooFar,
        Self::Killing,
        Self::PrimaryThere,
        Self::Stopping,
        Self::System,
    ];

    fn code(self) -> u8 {
        let place = Self::ALL.iter().position(|refusal| *refusal == self).expect("ALL has every refusal");
        u8::try_from(place).expect("there are few refusals") + 1
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// Rights that the operating system granted to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Real-time scheduling.
    pub fifo: bool,
    /// Memory locked.
    pub memory_locked: bool,
    /// Never chosen by the out-of-memory killer.
    pub oom_exempt: bool,
    /// A cgroup that the server is killed by in one step.
    pub cgroup: bool,
}

impl Rights {
    /// K: milliseconds from the deadline to the server's certain death. Measured well below either (timer lateness
    /// 13 ms with real-time scheduling, 55 ms without; killing 250 backends 153 ms).
    pub fn enforcement_ms(self) -> u32 {
        if self.fifo { 500 } else { 1000 }
    }

    /// What is missing, in words for a status page, with what it would need.
    pub fn missing(self) -> impl Iterator<Item = &'static str> {
        [
            (self.fifo, "real-time scheduling (CAP_SYS_NICE or LimitRTPRIO=1)"),
            (self.memory_locked, "locked memory (CAP_IPC_LOCK or LimitMEMLOCK=infinity)"),
            (self.oom_exempt, "exemption from the OOM killer (CAP_SYS_RESOURCE or OOMScoreAdjust=-1000)"),
            (self.cgroup, "a delegated cgroup (Delegate=yes, kernel 5.14)"),
        ]
        .into_iter()
        .filter_map(|(held, name)| (!held).then_some(name))
    }

    pub(crate) fn bits(self) -> u8 {
        u8::from(self.fifo)
            | u8::from(self.memory_locked) << 1
            | u8::from(self.oom_exempt) << 2
            | u8::from(self.cgroup) << 3
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        let bit = |place: u8| bits >> place & 1 == 1;
        Self { fifo: bit(0), memory_locked: bit(1), oom_exempt: bit(2), cgroup: bit(3) }
    }
}

/// How the last postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerExit {
    /// Its process id.
    pub pid: i32,
    /// Raw status of `wait(2)`.
    pub status: i32,
    /// Whether the guard had killed it at its deadline.
    pub enforced: bool,
}

/// A running postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    /// Its process id.
    pub pid: i32,
    /// Its start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Process id of the guard that owns the server.
    pub inner: i32,
    /// Process id of the guard's main process.
    pub outer: i32,
    /// The postmaster, if one runs.
    pub postmaster: Option<Postmaster>,
    /// Whether a process of a server is there; also true while the remains of one are being killed.
    pub tree_alive: bool,
    /// Whether the server is being killed.
    pub killing: bool,
    /// The deadline held, nanoseconds on `CLOCK_BOOTTIME`; none when disarmed.
    pub deadline: Option<u64>,
    /// Highest epoch that was ever held; zero for none.
    pub epoch: u64,
    /// Disarmed because the cluster is paused.
    pub paused: bool,
    /// What the operating system granted.
    pub rights: Rights,
    /// How the last postmaster of this guard ended, if one did.
    pub last_exit: Option<ServerExit>,
}

/// What the guard says: an answer to a request, or an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Answer to `Status`.
    Status(Status),
    /// Done.
    Ack,
    /// Not done, and why; the number is the operating system's, or zero.
    Refused(Refusal, i32),
    /// The server was started.
    Started(Postmaster),
    /// Event: the postmaster has ended. What is left of its server is being killed.
    ServerExited(ServerExit),
    /// Event: no process of the server is left.
    TreeEmpty,
}

/// Longest reply, in bytes.
pub const MAX_REPLY: usize = HEADER + STATUS_BODY;

const STATUS_BODY: usize = 4 + 4 + 4 + 8 + 1 + 1 + 8 + 8 + 4 + 4;

/// A reply in its encoded form.
pub(crate) struct Encoded {
    bytes: [u8; MAX_REPLY],
    length: usize,
}

impl Encoded {
    fn new(kind: u8, sequence: u32) -> Self {
        let mut bytes = [0; MAX_REPLY];
        bytes[..HEADER].copy_from_slice(&header(kind, sequence));
        Self { bytes, length: HEADER }
    }

    fn put(mut self, value: &[u8]) -> Self {
        self.bytes[self.length..self.length + value.len()].copy_from_slice(value);
        self.length += value.len();
        self
    }

    /// The packet.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Reply {
    /// Writes a packet.
    pub(crate) fn encode(&self, sequence: u32) -> Encoded {
        match self {
            Self::Status(status) => status.encode(sequence),
            Self::Ack => Encoded::new(65, sequence),
            Self::Refused(refusal, errno) => {
                Encoded::new(66, sequence).put(&[refusal.code()]).put(&errno.to_le_bytes())
            }
            Self::Started(server) => {
                Encoded::new(67, sequence).put(&server.pid.to_le_bytes()).put(&server.start_ticks.to_le_bytes())
            }
            Self::ServerExited(exit) => Encoded::new(96, sequence)
                .put(&exit.pid.to_le_bytes())
                .put(&exit.status.to_le_bytes())
                .put(&[u8::from(exit.enforced)]),
            Self::TreeEmpty => Encoded::new(97, sequence),
        }
    }

    /// Reads a packet; gives the sequence number too.
    pub fn decode(packet: &[u8]) -> Result<(u32, Self), WireError> {
        let (kind, sequence, body) = open(packet).map_err(|(_, error)| error)?;
        let reply = match (kind, body.len()) {
            (64, STATUS_BODY) => Self::Status(Status::decode(body)),
            (65, 0) => Self::Ack,
            (66, 5) => {
                let refusal = Refusal::from_code(body[0]).ok_or(WireError::Body(kind))?;
                Self::Refused(refusal, signed(body, 1))
            }
            (67, 12) => Self::Started(Postmaster { pid: signed(body, 0), start_ticks: number(body, 4) }),
            (96, 9) => {
                Self::ServerExited(ServerExit { pid: signed(body, 0), status: signed(body, 4), enforced: body[8] != 0 })
            }
            (97, 0) => Self::TreeEmpty,
            (64..=67 | 96 | 97, _) => return Err(WireError::Body(kind)),
            _ => return Err(WireError::Kind(kind)),
        };
        Ok((sequence, reply))
    }
}

impl Status {
    fn encode(&self, sequence: u32) -> Encoded {
        let flags = u8::from(self.tree_alive)
            | u8::from(self.killing) << 1
            | u8::from(self.deadline.is_some()) << 2
            | u8::from(self.paused) << 3
            | u8::from(self.last_exit.is_some_and(|exit| exit.enforced)) << 4;
        let server = self.postmaster.unwrap_or(Postmaster { pid: 0, start_ticks: 0 });
        let exit = self.last_exit.unwrap_or(ServerExit { pid: 0, status: 0, enforced: false });
        Encoded::new(64, sequence)
            .put(&self.inner.to_le_bytes())
            .put(&self.outer.to_le_bytes())
            .put(&server.pid.to_le_bytes())
            .put(&server.start_ticks.to_le_bytes())
            .put(&[flags, self.rights.bits()])
            .put(&self.epoch.to_le_bytes())
            .put(&self.deadline.unwrap_or(0).to_le_bytes())
            .put(&exit.pid.to_le_bytes())
            .put(&exit.status.to_le_bytes())
    }

    /// `body` has [`STATUS_BODY`] bytes.
    fn decode(body: &[u8]) -> Self {
        let flag = |place: u8| body[20] >> place & 1 == 1;
        let server = Postmaster { pid: signed(body, 8), start_ticks: number(body, 12) };
        let exit = ServerExit { pid: signed(body, 38), status: signed(body, 42), enforced: flag(4) };
        Self {
            inner: signed(body, 0),
            outer: signed(body, 4),
            postmaster: (server.pid != 0).then_some(server),
            tree_alive: flag(0),
            killing: flag(1),
            deadline: flag(2).then(|| number(body, 30)),
            epoch: number(body, 22),
            paused: flag(3),
            rights: Rights::from_bits(body[21]),
            last_exit: (exit.pid != 0).then_some(exit),
        }
    }
}

fn header(kind: u8, sequence: u32) -> [u8; HEADER] {
    let [s0, s1, s2, s3] = sequence.to_le_bytes();
    [VERSION, kind, s0, s1, s2, s3]
}

/// Takes a packet apart: kind, sequence number, body. The error carries the sequence number as far as there is one.
fn open(packet: &[u8]) -> Result<(u8, u32, &[u8]), (u32, WireError)> {
    let [version, kind, s0, s1, s2, s3, body @ ..] = packet else {
        return Err((0, WireError::Body(packet.get(1).copied().unwrap_or(0))));
    };
    let sequence = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
    if *version == VERSION { Ok((*kind, sequence, body)) } else { Err((sequence, WireError::Version(*version))) }
}

/// Eight bytes of `body` from `at`, which the caller has checked to be there.
fn number(body: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"))
}

fn signed(body: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
