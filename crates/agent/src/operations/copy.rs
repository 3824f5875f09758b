//! Copying from the leader: a base backup or a rewind.

use std::time::Duration;

use pgbaton_postgres::{BaseBackupError, CommandError, ControlFile, HostPort, Upstream};
use pgbaton_types::{MemberName, chain};
use tokio::time::sleep;

use super::{OperationError, archive};
use crate::context::Context;
use crate::keys;
use crate::spec::options;

/// How long `pg_basebackup` and `pg_rewind` may say nothing. The checkpoint that a backup begins with says nothing either.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// The leader makes this member's slot as soon as it sees its key; a copy that came first tries again.
const SLOT_TRIES: u32 = 10;
/// Wait before the next try.
const SLOT_WAIT: Duration = Duration::from_millis(200);

fn address(context: &Context, from: &MemberName) -> Result<HostPort, OperationError> {
    context
        .server_address(from)
        .ok_or_else(|| OperationError::Server(format!("the address of {from}'s server is not known yet")))
}

pub(super) async fn clone(context: &Context, from: &MemberName) -> Result<(), OperationError> {
    let config = context.config();
    let slot = config.effective.use_slots.then(|| context.me.slot_name());
    let source = Upstream { address: address(context, from)?, slot };
    let options = options(&config.effective.basebackup);
    for tried in 1.. {
        let progress = |step: pgbaton_postgres::Progress| {
            context.set_progress(Some((step.done_bytes, step.total_bytes)));
        };
        let result = pgbaton_postgres::base_backup(&config.spec, &source, &options, SILENCE_MAX, progress).await;
        context.set_progress(None);
        match result {
            Err(error) if tried < SLOT_TRIES && slot_missing(&error) => {
                tracing::debug!(tried, "the slot at the leader is not there yet");
                sleep(SLOT_WAIT).await;
            }
            result => return result.map_err(explained),
        }
    }
    Ok(())
}

fn slot_missing(error: &BaseBackupError) -> bool {
    matches!(error, BaseBackupError::Command(CommandError::Failed { output, .. })
        if output.contains("replication slot") && output.contains("does not exist"))
}

/// The commonest mistakes get a hint.
fn explained(error: BaseBackupError) -> OperationError {
    let text = chain(&error);
    if text.contains("password authentication failed") {
        return OperationError::Server(format!(
            "{text}; check that postgresql.authentication.replication is the same on all members"
        ));
    }
    if text.contains("no pg_hba.conf entry") {
        return OperationError::Server(format!(
            "{text}; add a line for replication to postgresql.pg_hba of all members"
        ));
    }
    error.into()
}

pub(super) async fn rewind(context: &Context, from: &MemberName) -> Result<(), OperationError> {
    let config = context.config();
    let source = address(context, from)?;
    // The rewind removes what waits.
    archive::before_rewind(context).await;
    save_tail(context);
    let options = options(&config.effective.rewind);
    pgbaton_postgres::rewind(&config.spec, &source, &options, SILENCE_MAX, |line| tracing::info!(line, "pg_rewind"))
        .await?;
    Ok(())
}

/// What the rewind throws away stays readable beside the data directory.
fn save_tail(context: &Context) {
    let data_dir = context.data_dir();
    let control = match ControlFile::read(&data_dir) {
        Ok(control) => control,
        Err(error) => return tracing::warn!(error = %chain(&error), "the WAL that a rewind removes is not saved"),
    };
    let timeline = control.checkpoint_timeline;
    let now = pgbaton_types::BootTime::default();
    let history = keys::cluster(&context.view.keys(), keys::Own::default(), now, 0).history;
    let Some(parted) = history.and_then(|history| history.end_of(timeline)).flatten() else { return };
    match pgbaton_postgres::save_wal_tail(&data_dir, timeline, parted) {
        Ok(names) => tracing::info!(
            segments = names.join(" "),
            place = %pgbaton_postgres::saved_wal_dir(&data_dir).display(),
            "saved the WAL that the rewind removes"
        ),
        Err(error) => tracing::warn!(error = %chain(&error), "the WAL that a rewind removes is not saved"),
    }
}
