//! Waiting until the server answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::sql::{LocalClient, Readiness, SqlError};

/// How often a connection is tried while the server starts: what a client waits at most longer than it must.
const TRY_INTERVAL: Duration = Duration::from_millis(10);

/// The server did not get ready.
#[derive(Debug, thiserror::Error)]
#[error("the server is not ready after {waited:?}")]
pub struct NotReady {
    /// How long was waited at most.
    pub waited: Duration,
    /// What the last attempt told.
    #[source]
    pub source: SqlError,
}

/// Waits until the server accepts connections, or has no slot left for one, which also tells that it is up. Fails at
/// once when it runs but does not let us in, which waiting does not change. The caller races this against the
/// postmaster's exit, which is not seen here.
pub async fn wait_ready(client: &LocalClient, within: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + within;
    loop {
        let Err(source) = client.try_new_connection().await else { return Ok(()) };
        match source.readiness() {
            Readiness::Ready | Readiness::Full => return Ok(()),
            Readiness::Refused => return Err(NotReady { waited: within, source }),
            Readiness::Starting | Readiness::Absent | Readiness::Silent => {}
        }
        if timeout_at(deadline, sleep(TRY_INTERVAL)).await.is_err() {
            return Err(NotReady { waited: within, source });
        }
    }
}
