//! Stopping the server, each way.

use std::time::Duration;

use pgbaton_core::StopMode;
use pgbaton_core::observation::Outcome;
use pgbaton_postgres::{shutdown_checkpoint, wait_shut_down};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::OperationError;
use super::senders::{Grace, unimpeded};
use crate::clock;
use crate::context::Context;
use crate::observe;
use crate::unguarded;

/// Signals of the postmaster (PostgreSQL documentation, "Shutting Down the Server") by their numbers on Linux.
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;

/// How often the guard is asked whether the last process is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long an immediate stop may take before the tree is killed.
const QUIT_TIME: Duration = Duration::from_secs(1);
/// How long a kill may take before it is reported as failed: processes in uninterruptible sleep end when their disk answers.
const KILL_TIME: Duration = Duration::from_secs(30);
/// How long the checkpoint before a handover may take. Clients still write; without it, what is dirty is written while nobody can.
const CHECKPOINT_TIME: Duration = Duration::from_secs(3);

pub(super) async fn stop(context: &Context, mode: StopMode) -> Result<Outcome, OperationError> {
    let status = context.guard.status()?;
    if let Some(pid) = unguarded::find(&context.data_dir(), status.postmaster) {
        return stop_stranger(context, pid, mode).await.map(|()| Outcome::Done);
    }
    match mode {
        StopMode::Handover => handover(context).await,
        StopMode::Fast => fast(context).await.map(|()| Outcome::Done),
        StopMode::Kill => kill(context).await.map(|()| Outcome::Done),
    }
}

async fn handover(context: &Context) -> Result<Outcome, OperationError> {
    let data_dir = context.data_dir();
    if let Err(error) = observe::client(&context.spec()).checkpoint(CHECKPOINT_TIME).await {
        tracing::info!(error = %crate::text::chain(&error), "the checkpoint before the handover did not complete");
    }
    context.guard.signal(SIGINT)?;
    // The lease is renewed meanwhile; longer than this nobody shall wait for writes.
    let within = context.config().settings.retry_timeout;
    unimpeded(&data_dir, Grace::CLIENTS_WAIT, wait_shut_down(&data_dir, within)).await?;
    Ok(Outcome::ShutDown(shutdown_checkpoint(&data_dir)?))
}

async fn fast(context: &Context) -> Result<(), OperationError> {
    if context.guard.status()?.postmaster.is_some() {
        context.guard.signal(SIGINT)?;
    }
    let within = patience(context);
    if unimpeded(&context.data_dir(), Grace::of_stop(within), wait_empty(context, within)).await? {
        return Ok(());
    }
    if context.guard.status()?.postmaster.is_some() {
        context.guard.signal(SIGQUIT)?;
    }
    if wait_empty(context, QUIT_TIME).await? {
        return Ok(());
    }
    kill(context).await
}

/// How long a fast stop may take. Under a lease it must be over before the guard kills; without one only the disk is waited for.
fn patience(context: &Context) -> Duration {
    let (config, now) = (context.config(), clock::now());
    match context.lease.valid(now, config.settings.paused) {
        Some(held) => config.settings.retry_timeout.min(held.lease.deadline.since(now)),
        None => config.spec.pg_ctl_timeout,
    }
}

/// Kills the tree and waits until its last process is gone.
pub(super) async fn kill(context: &Context) -> Result<(), OperationError> {
    if context.guard.status()?.tree_alive {
        context.guard.kill()?;
    }
    if wait_empty(context, KILL_TIME).await? {
        return Ok(());
    }
    Err(OperationError::Server(format!(
        "processes of the server are left {} s after they were killed",
        KILL_TIME.as_secs()
    )))
}

pub(super) async fn wait_empty(context: &Context, within: Duration) -> Result<bool, OperationError> {
    let begin = clock::now();
    while context.guard.status()?.tree_alive {
        if clock::now().since(begin) >= within {
            return Ok(false);
        }
        sleep(LOOK_INTERVAL).await;
    }
    Ok(true)
}

/// A postmaster that the guard did not start is asked to stop, first kindly unless it must be at once. Killing it would leave its
/// backends, which nobody else would end.
async fn stop_stranger(context: &Context, pid: i32, mode: StopMode) -> Result<(), OperationError> {
    let data_dir = context.data_dir();
    let kindly = if mode == StopMode::Kill { Duration::ZERO } else { patience(context) };
    for (signal, within) in [(Signal::INT, kindly), (Signal::QUIT, QUIT_TIME * 5)] {
        unguarded::signal(pid, &data_dir, signal).map_err(|source| OperationError::Signal { pid, source })?;
        let gone = async {
            while unguarded::find(&data_dir, None) == Some(pid) {
                sleep(LOOK_INTERVAL).await;
            }
        };
        if timeout(within, unimpeded(&data_dir, Grace::of_stop(within), gone)).await.is_ok() {
            return Ok(());
        }
    }
    Err(OperationError::Server(format!("the postmaster {pid}, which the guard did not start, does not stop")))
}
