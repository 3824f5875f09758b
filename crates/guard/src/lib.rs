//! The guard: two tiny processes that own the postmaster and stop it when the lease runs out, also when the agent is
//! killed or frozen.
//!
//! ```text
//! outer guard    main process of the service, sub-reaper: waits, holds the deadline as second
//!   inner guard  sub-reaper, parent of the postmaster: holds the deadline
//!     agent      asks for start, signals, deadlines over a socket pair ([`client`], [`wire`])
//!     postmaster
//!       backends
//! ```
//!
//! - The agent may die and be replaced: the inner guard starts it again, and the server does not notice.
//! - At the deadline the inner guard kills **every** process below itself but the agent's; if it is frozen, the outer
//!   one kills everything a moment later ([`OUTER_GRACE`]). The deadline stays held until no process is left.
//! - When the inner guard dies, the outer one kills everything below and begins anew with a fresh inner guard. When the outer
//!   one dies, the inner one kills everything and ends; the service manager starts the service again.
//! - When the postmaster ends for whatever reason, what it left behind is killed at once: orphaned backends go on committing.
//! - If both guards are killed in the same instant, busy backends outlive them; the agent, whose socket closes, kills
//!   those ([`client::kill_abandoned`]).
//!
//! What it must not do: decide anything about the cluster, speak to the network, wait for the disk, use threads, an
//! asynchronous runtime or serde. After their start the two processes allocate nothing; what remains on the heap is what
//! [`run`] prepared, and the kernel's own memory for new processes.
//!
//! The protocol with the service manager: SIGTERM and SIGINT are passed to the agent as SIGTERM, SIGHUP as it is. An
//! agent that exits with 0 is done, and so is its guard; whatever is left of the server is killed. An agent that
//! exits with [`EXIT_CONFIGURATION`] without ever having been ready ends its guard with that code. One that exits with
//! [`EXIT_LEAVES`] while no deadline is held leaves its server running: the outer guard ends with 0, and the inner one stays,
//! as the parent without which the server would be killed, until the server has ended. After any other end the agent is
//! started again.

mod agent_process;
pub mod client;
mod inner;
mod lease;
mod note;
mod outer;
mod page;
mod server;
pub mod wire;

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent_process::AgentCommand;

/// Exit code of an agent whose configuration does not let it start. Before it was ever ready, trying again is no use.
pub const EXIT_CONFIGURATION: u8 = 2;

/// Exit code of an agent that leaves its server running, which only an operator's maintenance mode allows. With a deadline held, or
/// without a server, it counts as 0.
pub const EXIT_LEAVES: u8 = 4;

/// How long after the deadline the outer guard waits for the inner one to have killed the server: long enough for a timer to be
/// late without real-time scheduling (55 ms measured), short against K (500 ms).
pub const OUTER_GRACE: Duration = Duration::from_millis(100);

/// What to guard.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent's executable. Looked up anew at each start, so that an upgraded one is taken.
    pub program: PathBuf,
    /// The agent's arguments, the program's name first.
    pub arguments: Vec<OsString>,
    /// How long the agent may take to end after SIGTERM; then everything is killed. At most an hour.
    pub stop_timeout: Duration,
}

/// Why the guard could not begin.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An argument or environment variable cannot be passed on.
    #[error("the agent's command line or environment is too long or contains a zero byte")]
    CommandLine,
    /// A step of the preparation failed.
    #[error("the guard cannot {step}")]
    Prepare {
        /// What was being done.
        step: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Replaces this process, keeping its id, by the same executable with `arguments` (the program's name first), so that
/// `ps` shows a guard for what it is and nothing of the caller's memory stays. Returns only on failure.
#[must_use]
pub fn become_guard(arguments: &[OsString]) -> io::Error {
    let Some((name, rest)) = arguments.split_first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    std::process::Command::new("/proc/self/exe").arg0(name).args(rest).exec()
}

/// Runs the guard in this process, which must have only one thread, until the agent is done. Returns the exit code for the
/// process; the server and the agent are gone then.
pub fn run(options: &Options) -> Result<u8, GuardError> {
    let command = AgentCommand::prepare(&options.program, &options.arguments)?;
    let stop_timeout = options.stop_timeout.min(Duration::from_secs(3600));
    outer::run(&command, u64::try_from(stop_timeout.as_nanos()).unwrap_or(u64::MAX))
}

fn c_string(text: &OsStr) -> Result<CString, GuardError> {
    CString::new(text.as_bytes()).map_err(|_| GuardError::CommandLine)
}

fn c_path(path: &Path) -> Result<CString, GuardError> {
    c_string(path.as_os_str())
}

/// This process's environment without `without`, as `NAME=value`.
fn environment(without: &str) -> Result<Vec<CString>, GuardError> {
    std::env::vars_os()
        .filter(|(name, _)| name != without)
        .map(|(name, value)| {
            let mut bytes = name.into_vec();
            bytes.push(b'=');
            bytes.extend(value.as_bytes());
            CString::new(bytes).map_err(|_| GuardError::CommandLine)
        })
        .collect()
}
