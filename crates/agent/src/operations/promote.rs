//! Making the standby the primary, on the timeline number that was reserved for it.
//!
//! PostgreSQL takes the first number after its own without a history file. So that it takes the reserved one, each number in between
//! gets a file that names no ancestor. These stay after a promotion, because a recovery stops looking at a gap; after one that failed they
//! are removed, because a recovery that takes such a file for the newest timeline could not begin.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgbaton_postgres::{ControlFile, DatabaseState, PromoteError, write_config};
use pgbaton_types::{TimelineId, chain};
use tokio::time::sleep;

use super::OperationError;
use crate::context::Context;
use crate::observe;
use crate::state::KeptPostmaster;

/// What a placeholder consists of: one comment.
const PLACEHOLDER: &str = "# pgbaton: this timeline number was given out and not used\n";
/// How long the checkpoint after a promotion may take; it only serves later rewinds.
const CHECKPOINT_TIME: Duration = Duration::from_secs(600);

/// How long that checkpoint waits after a handover, in which nobody has parted from anybody: its writes would make those wait who have just come.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// `handed_over`: the primary before has ended in peace, and this member has all of it.
pub(super) async fn promote(
    context: &Arc<Context>,
    timeline: TimelineId,
    handed_over: bool,
) -> Result<(), OperationError> {
    let spec = context.spec();
    let mut client = observe::client(&spec);
    // As seen by the decision that this follows: a connection of its own would cost time that nobody can write in.
    let own = match context.timeline() {
        Some(own) => own,
        None => client.sample().await?.timeline(),
    };
    install_placeholders(&spec.data_dir, own, timeline)?;
    // Whichever agent comes after this one knows that the server's word of being in recovery is not its last.
    let postmaster = context.guard.status()?.postmaster.map(KeptPostmaster::from);
    context.keep(|kept| kept.promoting = postmaster)?;
    let promoted = pgbaton_postgres::promote(&spec, &mut client, context.signaller(), spec.pg_ctl_timeout).await;
    let promoted = match promoted {
        Ok(promoted) => promoted.timeline,
        // An agent before this one had begun it: it is over.
        Err(PromoteError::NotAStandby(DatabaseState::InProduction)) => client.sample().await?.timeline(),
        Err(error) => {
            if ControlFile::read(&spec.data_dir)?.state == DatabaseState::InArchiveRecovery {
                remove_placeholders(&spec.data_dir)?;
            }
            return Err(error.into());
        }
    };
    if promoted != timeline {
        tracing::error!(reserved = %timeline, taken = %promoted, "the promotion took another timeline number");
    }
    tokio::spawn(after_promotion(Arc::clone(context), handed_over));
    Ok(())
}

/// What need not delay the first write: files without an upstream, and the checkpoint that later rewinds need.
async fn after_promotion(context: Arc<Context>, handed_over: bool) {
    context.set_prepared(None);
    let files = context.follow(None).map_err(OperationError::from).and_then(|recovery| {
        if write_config(&context.spec(), &recovery)?.changed {
            context.signal(pgbaton_postgres::ServerSignal::Reload)?;
        }
        Ok(())
    });
    if let Err(error) = files {
        tracing::warn!(error = %chain(&error), "the configuration files still name the former upstream");
    }
    if handed_over {
        sleep(SETTLE_TIME).await;
    }
    if let Err(error) = observe::client(&context.spec()).checkpoint(CHECKPOINT_TIME).await {
        tracing::warn!(error = %chain(&error), "the checkpoint after the promotion did not complete");
    }
}

fn file(data_dir: &Path, timeline: u32) -> PathBuf {
    data_dir.join("pg_wal").join(format!("{timeline:08X}.history"))
}

fn install_placeholders(data_dir: &Path, own: TimelineId, reserved: TimelineId) -> Result<(), OperationError> {
    for number in own.0 + 1..reserved.0 {
        let path = file(data_dir, number);
        if !path.exists() {
            pgbaton_sys::durable::replace(&path, PLACEHOLDER.as_bytes(), 0o600)
                .map_err(|error| OperationError::Server(chain(&error)))?;
        }
    }
    Ok(())
}

/// Removes placeholders above the newest real timeline.
pub(super) fn remove_placeholders(data_dir: &Path) -> Result<(), OperationError> {
    let dir = data_dir.join("pg_wal");
    let failed =
        |error: std::io::Error| OperationError::Server(format!("cannot look through {}: {error}", dir.display()));
    let mut newest_real = 1;
    let mut placeholders = Vec::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".history")) else { continue };
        let Ok(number) = u32::from_str_radix(stem, 16) else { continue };
        if fs::read(entry.path()).map_err(failed)? == PLACEHOLDER.as_bytes() {
            placeholders.push((number, entry.path()));
        } else {
            newest_real = newest_real.max(number);
        }
    }
    for (_, path) in placeholders.into_iter().filter(|(number, _)| *number > newest_real) {
        fs::remove_file(&path).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_fill_the_gap_and_leave_with_a_promotion_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        fs::write(file(dir.path(), 3), "1\t0/3000000\tx\n").unwrap();
        install_placeholders(dir.path(), TimelineId(1), TimelineId(6)).unwrap();
        let there = |number| file(dir.path(), number).exists();
        assert!(there(2) && there(3) && there(4) && there(5) && !there(6));
        remove_placeholders(dir.path()).unwrap();
        assert!(there(2) && there(3) && !there(4) && !there(5), "only those above the newest real one go");
    }
}
