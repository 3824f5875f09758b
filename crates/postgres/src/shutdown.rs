//! Waiting until a server can write no more.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{ControlFile, ControlFileError};

/// How often the control file is read. Each millisecond here is a millisecond without a primary; a read costs some
/// ten microseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Why the server is not known to be shut down.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// The control file cannot be read.
    #[error("cannot see whether the server is shut down")]
    Control(#[from] ControlFileError),
    /// It is still running.
    #[error("the server is still {} after {waited:?}", state.name())]
    TimedOut {
        /// Its state at the last look.
        state: crate::DatabaseState,
        /// How long was waited.
        waited: Duration,
    },
}

/// Waits until the control file says that the server shut down, and gives the control file of that moment.
///
/// The postmaster's exit is not the event: archiving and slow receivers can hold it for a minute after the shutdown
/// checkpoint, from which on no WAL is written. The caller has asked for the stop.
pub async fn wait_shut_down(data_dir: &Path, within: Duration) -> Result<ControlFile, ShutdownError> {
    let deadline = Instant::now() + within;
    loop {
        let control = ControlFile::read(data_dir)?;
        if control.state.is_clean() {
            return Ok(control);
        }
        if timeout_at(deadline, sleep(LOOK_INTERVAL)).await.is_err() {
            return Err(ShutdownError::TimedOut { state: control.state, waited: within });
        }
    }
}
