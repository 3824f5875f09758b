//! What a former primary left to be archived. Its successor takes all that it streamed for archived already, so the segments that still
//! wait here would be missing from the archive. Only ever done while another member leads or everything ends: it delays no promotion.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_types::chain;
use tokio::time::timeout;

use crate::clock;
use crate::context::Context;

/// How long a server that another one follows as primary is not started for this: a standby may recycle what waits, as long as
/// it is none.
const BEFORE_START: Duration = Duration::from_secs(10);
/// How long it goes on beside the running standby. A restartpoint, which may recycle, comes every five minutes by default.
const BESIDE: Duration = Duration::from_secs(240);
/// How long the agent stays for it at its end: a service manager kills after 90 s by default.
const AT_END: Duration = Duration::from_secs(30);

/// Before the server is started as a standby of another member. What is not done in time is gone on with beside it.
pub(super) async fn before_start(context: &Arc<Context>) {
    if archive(context, BEFORE_START).await {
        beside(context);
    }
}

/// Before a rewind, which removes what waits.
pub(super) async fn before_rewind(context: &Context) {
    archive(context, BEFORE_START).await;
}

/// Beside a standby that runs.
pub(super) fn beside(context: &Arc<Context>) {
    let context = Arc::clone(context);
    context.services.clone().spawn(async move {
        archive(&context, BESIDE).await;
    });
}

/// The agent ends, its server is stopped, and it holds no lease.
pub(crate) async fn at_end(context: &Context) {
    archive(context, AT_END).await;
}

/// Archives what waits. Says whether some still does, for want of time.
async fn archive(context: &Context, within: Duration) -> bool {
    // Whoever is at it already may go on for longer than this caller can wait; then it is in good hands.
    let begun = clock::now();
    let Ok(_alone) = timeout(within, context.archiving.lock()).await else {
        tracing::warn!(seconds = within.as_secs(), "what the server had left is still being archived");
        return false;
    };
    let within = within.saturating_sub(clock::now().since(begun));
    let spec = context.spec();
    // A primary archives by itself.
    let go_on = || context.lease.any().is_none();
    match pgbaton_postgres::archive_waiting(&spec, within, go_on).await {
        Ok(archived) => {
            if let Some((first, last)) = archived.done.first().zip(archived.done.last()) {
                tracing::info!(number = archived.done.len(), first, last, "archived what the server had left");
            }
            let Some(first) = archived.left.first() else { return false };
            let why = archived.why.unwrap_or_else(|| "this member leads again".to_owned());
            tracing::warn!(
                number = archived.left.len(),
                first,
                why,
                "WAL segments are not archived, and nobody else has them to archive"
            );
            archived.late
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "it is not known whether all is archived that the server had left");
            false
        }
    }
}
