//! Making a standby the primary.

use std::future::Future;
use std::time::Duration;

use pgbaton_types::TimelineId;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config_files::PROMOTE;
use crate::file::{remove_if_exists, replace_if_changed};
use crate::sample::SampledRole;
use crate::signal::{ServerSignal, SignalError};
use crate::sql::{LocalClient, SqlError};
use crate::{ControlFile, ControlFileError, DatabaseState, FileError, ServerSpec};

/// How often the nudge is repeated. A promotion that is noticed while the receiver is just starting waits for nothing
/// until the retry interval, up to 5 s, unless it is woken.
const NUDGE_INTERVAL: Duration = Duration::from_millis(20);
/// How often the control file is read: the end of recovery is written there.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// A finished promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promoted {
    /// The timeline that the server writes now, read back from it.
    pub timeline: TimelineId,
    /// Where its WAL ended at that moment.
    pub flushed: pgbaton_types::Lsn,
}

/// Why a promotion did not come about, or is not known to have.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The server is no standby in recovery.
    #[error("the server is {}, not a standby in recovery", .0.name())]
    NotAStandby(DatabaseState),
    /// The file `promote` cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The control file cannot be read.
    #[error("cannot see the promotion's progress")]
    Control(#[from] ControlFileError),
    /// The postmaster cannot be signalled.
    #[error("cannot signal the postmaster")]
    Signal(#[source] SignalError),
    /// Recovery has not ended in time. The request is withdrawn, but the server may have taken it already: it must be
    /// stopped.
    #[error("recovery has not ended after {0:?}")]
    TimedOut(Duration),
    /// It left recovery, but its timeline could not be read.
    #[error("promoted, but the new timeline cannot be read")]
    ReadBack(#[source] SqlError),
    /// It left recovery, and says that it is in recovery.
    #[error("the control file says in production, the server says in recovery")]
    Contradiction,
}

/// Promotes the standby and reads its new timeline back. The caller holds the lease until after `within`.
///
/// On any error but [`PromoteError::NotAStandby`] the server's role is unknown; the caller has to stop it or to look
/// again.
pub async fn promote<F, R>(
    spec: &ServerSpec,
    client: &mut LocalClient,
    signal: F,
    within: Duration,
) -> Result<Promoted, PromoteError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    let state = ControlFile::read(&spec.data_dir)?.state;
    if state != DatabaseState::InArchiveRecovery {
        return Err(PromoteError::NotAStandby(state));
    }
    let deadline = Instant::now() + within;
    let file = spec.file(PROMOTE);
    replace_if_changed(&file, "", 0o600)?;
    let ended = match timeout_at(deadline, nudge_until_production(spec, signal)).await {
        Ok(result) => result,
        Err(_) => Err(PromoteError::TimedOut(within)),
    };
    if let Err(error) = ended {
        // Whatever comes next shall not be promoted by a request of long ago.
        remove_if_exists(&file)?;
        return Err(error);
    }
    read_back(client, deadline).await
}

/// Asks the server what it is now. The end of recovery can break the kept connection, so that one failure says nothing.
async fn read_back(client: &mut LocalClient, deadline: Instant) -> Result<Promoted, PromoteError> {
    loop {
        let failed = match client.sample().await.map(|sample| sample.role) {
            Ok(SampledRole::Primary { timeline, flushed, .. }) => return Ok(Promoted { timeline, flushed }),
            Ok(SampledRole::Standby { .. }) => PromoteError::Contradiction,
            Err(error) => PromoteError::ReadBack(error),
        };
        if timeout_at(deadline, sleep(LOOK_INTERVAL)).await.is_err() {
            return Err(failed);
        }
    }
}

async fn nudge_until_production<F, R>(spec: &ServerSpec, mut signal: F) -> Result<(), PromoteError>
where
    F: FnMut(ServerSignal) -> R,
    R: Future<Output = Result<(), SignalError>>,
{
    let file = spec.file(PROMOTE);
    loop {
        let nudge = if file.exists() { ServerSignal::User1 } else { ServerSignal::Reload };
        signal(nudge).await.map_err(PromoteError::Signal)?;
        let next = Instant::now() + NUDGE_INTERVAL;
        while Instant::now() < next {
            if ControlFile::read(&spec.data_dir)?.state == DatabaseState::InProduction {
                return Ok(());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}
