//! The process that ends a pause when the one that began it cannot: it waits at the other end of a pipe, and acts when that closes, or when
//! the pause has lasted for too long.

use std::io;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use pgbaton_sys::child::ChildSetup;
use pgbaton_types::{BootTime, chain};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::console::{Console, ConsoleError};
use crate::settings::{Address, Settings};

/// The only argument, by which this program becomes the watcher.
pub const WATCHER: &str = "watch-pauses";
/// For how long it tries to end a pause: a PgBouncer that does not answer for so long holds nobody any more, or is restarted.
const TRY_FOR: Duration = Duration::from_mins(1);
/// Pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A line to the watcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Line {
    /// These databases may be paused until then.
    Held { console: Address, databases: Vec<String>, until: u64 },
    /// They are not any more.
    GoesOn,
}

/// The watcher as a child.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Child,
}

impl Watcher {
    /// Starts it.
    pub(crate) fn start() -> io::Result<Self> {
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg(WATCHER).stdin(Stdio::piped()).stdout(Stdio::null());
        // Whoever ends this process with all of its session leaves the watcher.
        ChildSetup { new_session: true, ..ChildSetup::default() }.apply(&mut command);
        Ok(Self { child: Command::from(command).spawn()? })
    }

    /// Whether it is there.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells it that databases may be paused from now on.
    pub(crate) async fn hold(&mut self, settings: &Settings, until: BootTime) -> io::Result<()> {
        let line = Line::Held { console: settings.console.clone(), databases: settings.writes.clone(), until: until.0 };
        self.tell(&line).await
    }

    /// Tells it that they go on.
    pub(crate) async fn goes_on(&mut self) -> io::Result<()> {
        self.tell(&Line::GoesOn).await
    }

    async fn tell(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let pipe = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(&text).await?;
        pipe.flush().await
    }
}

/// Is the watcher, until its standard input ends: what was held then, or for too long, is let go on.
///
/// # Errors
/// When its standard input cannot be read.
pub fn watch_stdin() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(watch())
}

async fn watch() -> io::Result<()> {
    let pipe = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut lines = BufReader::new(pipe).lines();
    let mut held: Option<Line> = None;
    loop {
        let until = match &held {
            Some(Line::Held { until, .. }) => Some(BootTime(*until)),
            _ => None,
        };
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => held = serde_json::from_str(&line).ok(),
                // Whoever began the pause is gone.
                Ok(None) | Err(_) => break,
            },
            () = passed(until) => {
                if let Some(held) = held.take() {
                    let_go(&held).await;
                }
            }
        }
    }
    if let Some(held) = held {
        let_go(&held).await;
    }
    Ok(())
}

/// When an instant is there; never without one.
async fn passed(until: Option<BootTime>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let now = BootTime(pgbaton_sys::clock::boottime());
        if now.reached(until) {
            return;
        }
        sleep(until.since(now)).await;
    }
}

async fn let_go(line: &Line) {
    let Line::Held { console, databases, .. } = line else { return };
    let began = BootTime(pgbaton_sys::clock::boottime());
    loop {
        let error = match resume(console, databases).await {
            Ok(()) => return tracing::warn!(?databases, "let the clients of a PgBouncer go on, whose keeper is gone"),
            Err(error) => error,
        };
        if BootTime(pgbaton_sys::clock::boottime()).since(began) >= TRY_FOR {
            return tracing::error!(error = %chain(&error), ?databases, "the clients of a PgBouncer could not be let go on");
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn resume(address: &Address, databases: &[String]) -> Result<(), ConsoleError> {
    let console = Console::connect(address).await?;
    for database in databases {
        console.resume(database).await?;
    }
    Ok(())
}
