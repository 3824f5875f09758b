//! `pgbaton demo`: three members on this machine, a primary that is killed with everything it consists of, its return, and a
//! switchover, all under a writer that remembers what was acknowledged. Ends with an error if a promise did not hold.
//!
//! It uses the same binary, the same configuration format and the same REST API as everybody else; nothing in it is easier than
//! in earnest but the network, which is this machine's own.

mod acts;
mod cluster;
mod member;
mod place;
mod screen;
mod tree;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Failure, Out};
use cluster::Cluster;
use place::Place;
use screen::Screen;

/// The variable that makes the demo end by itself, for tests.
const EXIT_VARIABLE: &str = "DEMO_EXIT";

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Stop the cluster that the demo left running, and remove its files
    #[arg(long)]
    stop: bool,
    /// Where the members keep their files; a new directory [default: pgbaton-demo-UID below TMPDIR]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Clean up at the end instead of leaving the cluster running; the variable `DEMO_EXIT=1` does the same
    #[arg(long)]
    exit: bool,
}

/// Runs the demo, or stops what an earlier one left.
pub(crate) fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let place = Place::new(options.dir.as_deref())?;
    if options.stop {
        let was = place.clear()?;
        return out.line(if was {
            "The demo's cluster is stopped and its files are removed."
        } else {
            "No demo is running."
        });
    }
    let mut screen = Screen::new(out);
    acts::headline(&mut screen)?;
    if place.clear()? {
        screen.say("(an earlier demo was stopped, and its files were removed)")?;
    }
    place.make()?;
    let exit = options.exit || std::env::var_os(EXIT_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    // A current-thread runtime would let nothing else run while a tree is killed between two commits.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = acts::play(&place, &mut screen, exit) => outcome,
            interrupted = interruption() => Err(interrupted),
        }
    });
    drop(runtime);
    if outcome.is_err() || exit {
        if outcome.as_ref().is_err_and(|failure| !matches!(failure, Failure::Closed | Failure::Interrupted)) {
            crate::complain(&Cluster::last_words(&place));
        }
        place.clear()?;
        reap();
        if exit && outcome.is_ok() {
            screen.out().line("\nThe cluster is stopped and its files are removed.")?;
        }
    }
    outcome
}

/// Takes the members' dead guards, which are children of this process, off the system's list.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}

/// Waits for Ctrl-C or another wish that this end.
async fn interruption() -> Failure {
    let wait = async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        Ok::<_, std::io::Error>(())
    };
    match wait.await {
        Ok(()) => Failure::Interrupted,
        Err(error) => Failure::because("cannot wait for signals", error),
    }
}
