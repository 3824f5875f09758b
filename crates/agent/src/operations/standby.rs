//! Pointing a running standby at another upstream.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_postgres::FollowError;
use pgbaton_types::{MemberName, chain};

use super::{OperationError, archive};
use crate::context::Context;
use crate::observe;

/// How long is waited for the first WAL. When it has not come, the configuration stays, and later looks tell.
const STREAM_TIME: Duration = Duration::from_millis(1500);

pub(super) async fn follow(context: &Arc<Context>, upstream: &MemberName) -> Result<(), OperationError> {
    context.set_prepared(None);
    let recovery = context.follow(Some(upstream))?;
    if recovery.upstream.is_none() {
        return Err(OperationError::Server(format!("the address of {upstream}'s server is not known yet")));
    }
    archive::beside(context);
    let spec = context.spec();
    let mut client = observe::client(&spec);
    match pgbaton_postgres::follow(&spec, &recovery, &mut client, context.signaller(), STREAM_TIME).await {
        Ok(_) => Ok(()),
        Err(error @ FollowError::TimedOut { .. }) => {
            tracing::info!(error = %chain(&error), "the standby goes on trying");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
