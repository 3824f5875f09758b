//! A standby that takes no WAL does not hold the stop of its upstream up.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use pgbaton_postgres::held_up_senders;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::text::chain;
use crate::unguarded;

/// How long standbys are given to take what is left. Clients wait meanwhile, and a refused switchover shall cost less than a second.
const GRACE: Duration = Duration::from_millis(300);
/// How often is looked. A process that is held up in two looks in a row is ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for the end of a stop that was begun, and ends what holds it up.
pub(super) async fn unimpeded<T>(data_dir: &Path, stopped: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        result = stopped => result,
        never = end_held_up(data_dir) => match never {},
    }
}

/// What a standby misses for it, it gets from the next primary, or when this one is back.
async fn end_held_up(data_dir: &Path) -> Infallible {
    sleep(GRACE).await;
    let (mut before, mut told) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let held_up: BTreeSet<i32> = match held_up_senders(data_dir) {
            Ok(pids) => pids.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect(),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "what holds the stop up is not known");
                BTreeSet::new()
            }
        };
        for &pid in held_up.intersection(&before) {
            // The first signal has the process write its last words, which nobody takes either; the next one ends that, too.
            let sent = unguarded::signal(pid, data_dir, Signal::TERM);
            if told.insert(pid) {
                match sent {
                    Ok(()) => tracing::info!(pid, "a standby takes no more WAL: ends the process that sends it"),
                    Err(error) => tracing::warn!(pid, %error, "the process that sends WAL to a standby was not ended"),
                }
            }
        }
        before = held_up;
        sleep(LOOK_INTERVAL).await;
    }
}
