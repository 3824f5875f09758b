//! Waiting until the server answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::sql::{LocalClient, Readiness};

/// How often a connection is tried while the server starts: what a client waits at most longer than it must.
const TRY_INTERVAL: Duration = Duration::from_millis(10);

/// The server did not get ready in time.
#[derive(Debug, thiserror::Error)]
#[error("the server is not ready after {waited:?}: {last:?}")]
pub struct NotReady {
    /// What the last attempt told.
    pub last: Readiness,
    /// How long was waited.
    pub waited: Duration,
}

/// Waits until the server accepts connections, or has no slot left for one, which also tells that it is up. The caller
/// races this against the postmaster's exit, which is not seen here.
pub async fn wait_ready(client: &LocalClient, within: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + within;
    loop {
        let last = client.probe_new_connection().await;
        if matches!(last, Readiness::Ready | Readiness::Full) {
            return Ok(());
        }
        if timeout_at(deadline, sleep(TRY_INTERVAL)).await.is_err() {
            return Err(NotReady { last, waited: within });
        }
    }
}
