//! A standby that takes no WAL does not hold the stop of its upstream up.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use pgbaton_postgres::held_up_senders;
use pgbaton_types::chain;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::clock;
use crate::unguarded;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// When a process that holds a stop up is ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    /// Nothing is looked at before: looking costs what a stop could use.
    after: Duration,
    /// It has to be held up in each look for so long.
    held_up: Duration,
}

impl Grace {
    /// Clients wait, and a refused switchover shall cost less than a second.
    pub(super) const CLIENTS_WAIT: Self =
        Self { after: Duration::from_millis(150), held_up: Duration::from_millis(50) };
    /// The longest: perhaps the standby leads next, and what it is not sent now is lost.
    const STANDBYS_FIRST: Self = Self { after: Duration::from_secs(1), held_up: Duration::from_secs(1) };

    /// For a stop that nobody waits for and that may take so long: half of that is for standbys, the rest for what comes after them.
    pub(super) fn of_stop(within: Duration) -> Self {
        let longest = Self::STANDBYS_FIRST;
        Self { after: longest.after.min(within / 4), held_up: longest.held_up.min(within / 4) }
    }
}

/// Waits for the end of a stop that was begun, and ends what holds it up.
pub(super) async fn unimpeded<T>(data_dir: &Path, grace: Grace, stopped: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        result = stopped => result,
        never = end_held_up(data_dir, grace) => match never {},
    }
}

/// What a standby misses for it, it gets from the next primary, or when this one is back.
async fn end_held_up(data_dir: &Path, grace: Grace) -> Infallible {
    sleep(grace.after).await;
    let (mut since, mut told, mut blind) = (BTreeMap::new(), BTreeSet::new(), false);
    loop {
        let (now, before) = (clock::now(), std::mem::take(&mut since));
        match held_up_senders(data_dir) {
            Ok(pids) => {
                let pids = pids.into_iter().map(|pid| pid.as_raw_nonzero().get());
                since = pids.map(|pid| (pid, before.get(&pid).copied().unwrap_or(now))).collect();
            }
            Err(_) if blind => {}
            Err(error) => {
                blind = true;
                tracing::warn!(error = %chain(&error), "what holds the stop up is not known");
            }
        }
        for (&pid, _) in since.iter().filter(|(_, first)| now.since(**first) >= grace.held_up) {
            // The first signal has the process write its last words, which nobody takes either; the next one ends that, too.
            let sent = unguarded::signal(pid, data_dir, Signal::TERM);
            if told.insert(pid) {
                match sent {
                    Ok(()) => tracing::info!(pid, "a standby takes no more WAL: ends the process that sends it"),
                    Err(error) => tracing::warn!(pid, %error, "the process that sends WAL to a standby was not ended"),
                }
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}
