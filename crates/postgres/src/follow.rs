//! Making a standby stream from another server.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::config_files::{Recovery, write_config};
use crate::signal::{ServerSignal, SignalError};
use crate::sql::{LocalClient, SqlError};
use crate::{FileError, HostPort, Receiver, ServerSpec};

/// How often the receiver is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often a standby that waits is woken to try again.
const NUDGE_INTERVAL: Duration = Duration::from_millis(100);

/// Why a standby does not stream.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The configuration cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The postmaster cannot be signalled.
    #[error("cannot signal the postmaster")]
    Signal(#[source] SignalError),
    /// Nothing comes in. It may yet: the configuration stays.
    #[error("not streaming from {upstream} after {waited:?}: {}", shown(receiver.as_ref()))]
    TimedOut {
        /// Where it should stream from.
        upstream: HostPort,
        /// How long was waited.
        waited: Duration,
        /// The receiver at the last look.
        receiver: Option<Receiver>,
        /// The last error of a look, if the last look failed.
        #[source]
        source: Option<SqlError>,
    },
}

fn shown(receiver: Option<&Receiver>) -> String {
    receiver.map_or_else(|| "no receiver".to_owned(), |receiver| format!("the receiver is {}", receiver.status))
}

/// Writes where to stream from and has the server read it. Without an upstream the receiver ends. Says whether
/// anything changed.
pub async fn point_to<F, R>(spec: &ServerSpec, recovery: &Recovery, mut signal: F) -> Result<bool, FollowError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    let written = write_config(spec, recovery)?;
    if written.changed {
        signal(ServerSignal::Reload).await.map_err(FollowError::Signal)?;
    }
    Ok(written.changed)
}

/// Waits until WAL streams from `upstream`, waking the server again and again so that it does not sit out its retry
/// interval.
pub async fn wait_streaming<F, R>(
    client: &mut LocalClient,
    upstream: &HostPort,
    mut signal: F,
    within: Duration,
) -> Result<Receiver, FollowError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    let deadline = Instant::now() + within;
    let mut next_nudge = Instant::now();
    loop {
        let (receiver, source) = match client.sample().await {
            Ok(sample) => (sample.receiver().cloned(), None),
            Err(error) => (None, Some(error)),
        };
        if let Some(receiver) = receiver.as_ref().filter(|receiver| receiver.streams_from(upstream)) {
            return Ok(receiver.clone());
        }
        if Instant::now() >= next_nudge {
            nudge_receiver(&mut signal).await?;
            next_nudge = Instant::now() + NUDGE_INTERVAL;
        }
        if timeout_at(deadline, sleep(LOOK_INTERVAL)).await.is_err() {
            return Err(FollowError::TimedOut { upstream: upstream.clone(), waited: within, receiver, source });
        }
    }
}

/// [`point_to`] and [`wait_streaming`] together.
pub async fn follow<F, R>(
    spec: &ServerSpec,
    recovery: &Recovery,
    client: &mut LocalClient,
    mut signal: F,
    within: Duration,
) -> Result<Option<Receiver>, FollowError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    point_to(spec, recovery, &mut signal).await?;
    match &recovery.upstream {
        Some(upstream) => wait_streaming(client, &upstream.address, signal, within).await.map(Some),
        None => Ok(None),
    }
}

/// Wakes a standby that waits to try its upstream again: to be called when the upstream is known to be ready.
pub async fn nudge_receiver<F, R>(mut signal: F) -> Result<(), FollowError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    signal(ServerSignal::Reload).await.map_err(FollowError::Signal)
}

impl Receiver {
    /// Whether WAL comes in from this server.
    pub fn streams_from(&self, upstream: &HostPort) -> bool {
        self.is_streaming()
            && self.sender_port == Some(upstream.port)
            && self.sender_host.as_deref() == Some(upstream.host.as_str())
    }
}
