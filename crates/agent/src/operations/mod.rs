//! Work that takes time, one file each. An operation does what its kind says and reports what came of it; it decides nothing, and
//! leaves nothing half done that a later look would not show.

mod archive;
mod copy;
mod make;
mod promote;
mod recover;
mod senders;
mod standby;
mod start;
mod stop;

use std::sync::Arc;

use pgbaton_core::OperationKind;
use pgbaton_core::observation::Outcome;
use pgbaton_postgres::ControlFileError;
use pgbaton_types::chain;

use crate::context::Context;
use crate::state::StateError;

pub(crate) use archive::at_end as archive_at_end;
pub(crate) use make::publish_config;

/// Why an operation did not do its work. Large errors are boxed: they are moved through every operation.
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
    Make(Box<pgbaton_postgres::InitdbError>),
    #[error(transparent)]
    Rewind(Box<pgbaton_postgres::RewindError>),
    #[error(transparent)]
    Promote(Box<pgbaton_postgres::PromoteError>),
    #[error(transparent)]
    Follow(Box<pgbaton_postgres::FollowError>),
    #[error(transparent)]
    Shutdown(#[from] pgbaton_postgres::ShutdownError),
    #[error(transparent)]
    Wal(Box<pgbaton_postgres::WalError>),
    #[error(transparent)]
    Sql(Box<pgbaton_postgres::SqlError>),
    #[error(transparent)]
    Store(Box<pgbaton_store::StoreError>),
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

macro_rules! boxed {
    ($($variant:ident($error:ty)),+ $(,)?) => {
        $(impl From<$error> for OperationError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })+
    };
}

boxed! {
    Make(pgbaton_postgres::InitdbError),
    Rewind(pgbaton_postgres::RewindError),
    Promote(pgbaton_postgres::PromoteError),
    Follow(pgbaton_postgres::FollowError),
    Store(pgbaton_store::StoreError),
    Wal(pgbaton_postgres::WalError),
    Sql(pgbaton_postgres::SqlError),
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
        OperationKind::Promote { timeline, proven, .. } => promote::promote(&context, *timeline, *proven).await,
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
