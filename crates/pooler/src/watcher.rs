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
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::console::{Console, ConsoleError};
use crate::settings::Address;

/// The only argument, by which this program becomes the watcher.
pub const WATCHER: &str = "watch-pauses";
/// The first and the longest pause between two tries to end a pause.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    pub(crate) async fn hold(&mut self, console: &Address, databases: &[String], until: BootTime) -> io::Result<()> {
        let line = Line::Held { console: console.clone(), databases: databases.to_vec(), until: until.0 };
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
    // A service manager that ends everything at once ends this process last: it goes when there is nothing left to watch.
    let _ignored = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let pipe = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut lines = BufReader::new(pipe).lines();
    let mut watched: Option<Watched> = None;
    let mut alone = false;
    loop {
        if alone && watched.is_none() {
            return Ok(());
        }
        tokio::select! {
            line = lines.next_line(), if !alone => match line {
                Ok(Some(line)) => match Watched::of(&line) {
                    Ok(anew) => watched = anew,
                    // What is watched stays watched.
                    Err(error) => tracing::error!(%error, "what is to be watched was not understood; this is a bug"),
                },
                // Whoever began the pause is gone.
                Ok(None) | Err(_) => {
                    alone = true;
                    if let Some(watched) = &mut watched {
                        watched.next = Some(BootTime::default());
                    }
                }
            },
            () = passed(watched.as_ref().and_then(|watched| watched.next)) => {
                let Some(held) = &mut watched else { continue };
                if held.let_go().await && alone {
                    watched = None;
                }
            }
        }
    }
}

/// Databases that may be paused.
struct Watched {
    console: Address,
    databases: Vec<String>,
    /// When they are to be let go on; none: they were, and whoever keeps them has not said yet that it knows.
    next: Option<BootTime>,
    pause: Duration,
    said: bool,
}

impl Watched {
    fn of(line: &str) -> serde_json::Result<Option<Self>> {
        Ok(match serde_json::from_str(line)? {
            Line::Held { console, databases, until } => {
                Some(Self { console, databases, next: Some(BootTime(until)), pause: FIRST_PAUSE, said: false })
            }
            Line::GoesOn => None,
        })
    }

    /// Lets them go on, and says whether that went well; otherwise it is tried again.
    async fn let_go(&mut self) -> bool {
        match resume(&self.console, &self.databases).await {
            Ok(()) => {
                tracing::warn!(databases = ?self.databases, "let the clients of a PgBouncer go on, whose keeper is gone");
                self.next = None;
                true
            }
            Err(error) => {
                if !self.said {
                    tracing::error!(error = %chain(&error), databases = ?self.databases, "the clients of a PgBouncer cannot be let go on; it is tried again");
                    self.said = true;
                }
                self.next = Some(BootTime(pgbaton_sys::clock::boottime()) + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                false
            }
        }
    }
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

async fn resume(address: &Address, databases: &[String]) -> Result<(), ConsoleError> {
    let console = Console::connect(address).await?;
    for database in databases {
        console.resume(database).await?;
    }
    Ok(())
}
