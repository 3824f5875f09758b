//! Stopping the server, each way.

use std::time::Duration;

use pgbaton_core::StopMode;
use pgbaton_core::observation::Outcome;
use pgbaton_postgres::{shutdown_checkpoint, wait_shut_down};
use pgbaton_types::BootTime;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::OperationError;
use super::senders::{Grace, unimpeded};
use crate::clock;
use crate::context::Context;
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
    context.address.leave().await;
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
    let limit = Limit::of_stop(context);
    let grace = Grace::of_stop(limit.end(context).since(clock::now()));
    if unimpeded(&context.data_dir(), grace, empty_before(context, limit)).await? {
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

/// How long a fast stop may take.
#[derive(Debug, Clone, Copy)]
struct Limit {
    begun: BootTime,
    leased: bool,
}

impl Limit {
    fn of_stop(context: &Context) -> Self {
        let now = clock::now();
        Self { begun: now, leased: context.lease.valid(now, context.config().settings.paused).is_some() }
    }

    /// The end as it stands now. Under a lease the stop must be over before the guard kills; while that is renewed, as in a restart that an
    /// operator asked for, the checkpoint has as much time as without one.
    fn end(self, context: &Context) -> BootTime {
        let config = context.config();
        let longest = self.begun + config.spec.pg_ctl_timeout;
        match context.lease.valid(clock::now(), config.settings.paused) {
            // Nobody enforces anything.
            _ if config.settings.paused => longest,
            Some(held) => longest.min(held.lease.deadline),
            None if self.leased => self.begun,
            None => longest,
        }
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
    let end = clock::now() + within;
    wait_empty_until(context, || end).await
}

async fn empty_before(context: &Context, limit: Limit) -> Result<bool, OperationError> {
    wait_empty_until(context, || limit.end(context)).await
}

async fn wait_empty_until(context: &Context, end: impl Fn() -> BootTime) -> Result<bool, OperationError> {
    while context.guard.status()?.tree_alive {
        if clock::now().reached(end()) {
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
    let longest = Limit::of_stop(context).end(context).since(clock::now());
    let kindly = if mode == StopMode::Kill { Duration::ZERO } else { longest };
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
