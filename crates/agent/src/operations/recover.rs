//! Recovering a crashed directory by itself, to see where its WAL ends and to make it fit for a rewind.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_postgres::StartAs;
use tokio::time::sleep;

use super::OperationError;
use super::promote::remove_placeholders;
use super::start::{start, wait_up};
use super::stop::{kill, wait_empty};
use crate::clock;
use crate::context::Context;
use crate::observe;

/// The startup process waits for this when neither `pg_wal` nor an archive nor a stream has more (PostgreSQL documentation,
/// "Wait Events of Type Timeout").
const NOTHING_LEFT: &str = "RecoveryRetrieveRetryInterval";
/// How often that is asked.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long replaying local WAL may take.
const REPLAY_TIME: Duration = Duration::from_secs(3600);
/// How long the stop after it may take.
const STOP_TIME: Duration = Duration::from_secs(60);
/// SIGINT, a fast stop.
const SIGINT: u8 = 2;

/// Starts as a standby of nobody, waits for the end of the WAL, and stops.
pub(super) async fn alone(context: &Context) -> Result<(), OperationError> {
    let spec = context.spec();
    remove_placeholders(&spec.data_dir)?;
    let mut recovery = context.follow(None)?;
    // An archive may hold another history: what counts is what is here.
    recovery.overrides = BTreeMap::from([("restore_command".to_owned(), String::new())]);
    start(context, StartAs::Standby, &recovery)?;
    let result = wait_end(context, spec.pg_ctl_timeout).await;
    if context.guard.status()?.postmaster.is_some() {
        context.guard.signal(SIGINT)?;
    }
    if !wait_empty(context, STOP_TIME).await? {
        kill(context).await?;
    }
    result
}

async fn wait_end(context: &Context, start_time: Duration) -> Result<(), OperationError> {
    wait_up(context, start_time.max(REPLAY_TIME)).await?;
    let mut client = observe::client(&context.spec());
    let begin = clock::now();
    loop {
        let waits = client.value("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'").await?;
        if waits.as_deref() == Some(NOTHING_LEFT) {
            return Ok(());
        }
        if clock::now().since(begin) >= REPLAY_TIME {
            let what = format!("the end of the WAL was not reached; the startup process waits for {waits:?}");
            return Err(OperationError::Server(what));
        }
        sleep(LOOK_INTERVAL).await;
    }
}
