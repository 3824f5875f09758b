//! Work that takes time, one file each. An operation does what its kind says and reports what came of it; it decides nothing, and
//! leaves nothing half done that a later look would not show.

mod copy;
mod make;
mod promote;
mod recover;
mod standby;
mod start;
mod stop;

use std::sync::Arc;

use pgbaton_core::OperationKind;
use pgbaton_core::observation::Outcome;
use pgbaton_postgres::ControlFileError;

use crate::context::Context;
use crate::state::StateError;
use crate::text::chain;

pub(crate) use make::publish_config;


/// Why an operation did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperationError {
    #[error(transparent)]
    Guard(#[from] pgbaton_guard::client::ClientError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    File(#[from] pgbaton_postgres::FileError),
    #[error(transparent)]
    Control(#[from] ControlFileError),
    #[error(transparent)]
    DataDir(#[from] pgbaton_postgres::DataDirError),
    #[error(transparent)]
    Make(#[from] pgbaton_postgres::InitdbError),
    #[error(transparent)]
    Rewind(#[from] pgbaton_postgres::RewindError),
    #[error(transparent)]
    Promote(#[from] pgbaton_postgres::PromoteError),
    #[error(transparent)]
    Follow(#[from] pgbaton_postgres::FollowError),
    #[error(transparent)]
    Shutdown(#[from] pgbaton_postgres::ShutdownError),
    #[error(transparent)]
    Wal(#[from] pgbaton_postgres::WalError),
    #[error(transparent)]
    Sql(#[from] pgbaton_postgres::SqlError),
    #[error(transparent)]
    Store(#[from] pgbaton_store::StoreError),
    /// A postmaster of somebody else cannot be signalled.
    #[error("cannot signal the postmaster {pid}")]
    Signal {
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    /// The server does not do what was awaited.
    #[error("{0}")]
    Server(String),
}

/// Carries out one operation.
pub(crate) async fn run(context: Arc<Context>, kind: OperationKind) -> Outcome {
    let result = match &kind {
        OperationKind::Initdb => make::initdb(&context).await,
        OperationKind::FinishBootstrap { .. } => make::finish(&context).await,
        OperationKind::Quarantine { .. } => make::quarantine(&context),
        OperationKind::Clone { from, .. } => copy::clone(&context, from).await,
        OperationKind::Rewind { from, .. } => copy::rewind(&context, from).await,
        OperationKind::RecoverAlone => recover::alone(&context).await,
        OperationKind::StartStandby { upstream } => start::standby(&context, upstream.as_ref()).await,
        OperationKind::StartPrimary { .. } => start::primary(&context).await,
        OperationKind::Promote { timeline, .. } => promote::promote(&context, *timeline).await,
        OperationKind::Follow { upstream } => standby::follow(&context, upstream).await,
        OperationKind::Stop { mode } => {
            return stop::stop(&context, *mode).await.unwrap_or_else(|error| Outcome::Failed(chain(&error)));
        }
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    }
}
