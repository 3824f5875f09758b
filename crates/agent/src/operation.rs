//! The operation that is under way: on a thread of its own, so that neither its disk nor its tools delay anything else.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::OperationKind;
use pgbaton_types::BootTime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::operations;

/// How long the loop waits for an operation that was given up to let go. Its tools are killed at once; only a system call that hangs in the disk
/// takes longer.
const LET_GO_TIME: Duration = Duration::from_secs(2);

/// An operation that is under way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) kind: OperationKind,
    pub(crate) since: BootTime,
    given_up: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Begins it. Its end comes as an event.
    pub(crate) fn begin(context: Arc<Context>, id: u64, kind: OperationKind) -> Self {
        let (given_up, stop) = oneshot::channel();
        let services = context.services.clone();
        let thread = services.clone().spawn_blocking({
            let kind = kind.clone();
            move || {
                services.block_on(async move {
                    tokio::select! {
                        outcome = operations::run(Arc::clone(&context), kind) => {
                            let event = Event::OperationFinished { id, outcome };
                            if context.events.send(event).await.is_err() {
                                tracing::debug!("the loop ended before its operation");
                            }
                        }
                        _ = stop => {}
                    }
                });
            }
        });
        Self { id, kind, since: clock::now(), given_up, thread }
    }

    /// Gives it up and waits until it has let go.
    pub(crate) async fn cancel(self) {
        drop(self.given_up);
        if tokio::time::timeout(LET_GO_TIME, self.thread).await.is_err() {
            tracing::error!(operation = %self.kind, "an operation that was given up does not let go: is the disk hung?");
        }
    }
}
