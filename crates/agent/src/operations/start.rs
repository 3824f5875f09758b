//! Starting the server: files first, then the guard is asked, then it is waited for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_guard::wire::ServerCommand;
use pgbaton_postgres::{CommandLine, ControlFile, Readiness, StartAs, prepare_start};
use pgbaton_types::MemberName;
use tokio::time::sleep;

use super::promote::remove_placeholders;
use super::{OperationError, archive};
use crate::clock;
use crate::context::Context;
use crate::observe;

/// How often a connection is tried while the server starts: what a client waits at most longer than it must.
const TRY_INTERVAL: Duration = Duration::from_millis(5);

/// Starts as a standby of `upstream`, or of nobody.
pub(super) async fn standby(context: &Arc<Context>, upstream: Option<&MemberName>) -> Result<(), OperationError> {
    if upstream.is_some() {
        archive::before_start(context).await;
    }
    context.set_prepared(None);
    let recovery = context.follow(upstream)?;
    if recovery.upstream.is_none() {
        // Nobody's address is known: it comes up all the same, and says that it follows nobody.
        context.follow(None)?;
    }
    let spec = context.spec();
    remove_placeholders(&spec.data_dir)?;
    start(context, StartAs::Standby, &recovery)?;
    wait_up(context, spec.pg_ctl_timeout).await
}

/// Starts as a primary. The caller has checked the lease this very moment, and the guard checks its deadline once more.
pub(super) async fn primary(context: &Context) -> Result<(), OperationError> {
    context.set_prepared(None);
    let recovery = context.follow(None)?;
    start(context, StartAs::Primary, &recovery)?;
    let config = context.config();
    wait_up(context, config.settings.primary_start_timeout.max(config.spec.pg_ctl_timeout)).await
}

/// Writes the files and has the guard start the server.
pub(super) fn start(
    context: &Context,
    start_as: StartAs,
    recovery: &pgbaton_postgres::Recovery,
) -> Result<(), OperationError> {
    let spec = context.spec();
    let control = ControlFile::read(&spec.data_dir)?;
    let prepared = prepare_start(&spec, start_as, recovery, &control)?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    for raised in &prepared.raised {
        tracing::info!(
            setting = raised.name,
            configured = raised.configured,
            running = raised.running,
            "a standby must not be below its primary: the configured value waits for a restart"
        );
    }
    context.guard.start(&command(prepared.command, start_as == StartAs::Primary))?;
    Ok(())
}

fn command(command: CommandLine, primary: bool) -> ServerCommand {
    let variable = |(name, value): (OsString, OsString)| {
        let mut bytes = name.into_vec();
        bytes.push(b'=');
        bytes.extend(value.into_vec());
        bytes
    };
    ServerCommand {
        arguments: command.arguments.into_iter().map(OsString::into_vec).collect(),
        environment: command.environment.into_iter().map(variable).collect(),
        directory: command.directory.into_os_string().into_vec(),
        primary,
    }
}

/// Waits until the server lets clients in, or is gone.
pub(super) async fn wait_up(context: &Context, within: Duration) -> Result<(), OperationError> {
    let (begin, spec) = (clock::now(), context.spec());
    let client = observe::client(&spec);
    loop {
        // Trying before the postmaster says that it is ready would fill the server's log.
        let last = if observe::accepts_connections(&spec.data_dir) {
            client.probe_new_connection().await
        } else {
            Readiness::Starting
        };
        if matches!(last, Readiness::Ready | Readiness::Full) {
            return Ok(());
        }
        if context.guard.status()?.postmaster.is_none() {
            return Err(OperationError::Server(
                "the server ended while it was starting; its log, above this line, says why".to_owned(),
            ));
        }
        if last == Readiness::Refused {
            return Err(OperationError::Server(format!(
                "the server does not let {} in: check postgresql.authentication.superuser and pg_hba",
                spec.authentication.superuser.username
            )));
        }
        let waited = clock::now().since(begin);
        if waited >= within {
            let what = format!("the server does not accept connections after {} s ({last:?})", waited.as_secs());
            return Err(OperationError::Server(what));
        }
        sleep(TRY_INTERVAL).await;
    }
}
