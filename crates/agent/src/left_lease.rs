//! The lease of an agent that ended in maintenance mode and left its server running: the next agent of the member goes on with it as
//! long as the store still knows it, so that the primary does not stand there without one when the pause ends.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::lease::{self, RenewalTimes};
use pgbaton_core::observation::Lease;
use pgbaton_store::Renewal;
use pgbaton_types::chain;
use tokio::time::sleep;

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::keeper::Held;
use crate::keys;
use crate::state::KeptLease;

/// Wait before the next try when the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Renews the lease that was left, once: by the store's word it is still this member's, or it is not. Gives up when the pause ends.
pub(crate) async fn take_up(context: Arc<Context>, kept: KeptLease) {
    loop {
        let settings = context.config().settings.clone();
        if !settings.paused || context.lease.any().is_some() {
            return;
        }
        let renewal =
            Renewal { lease: kept.id, leader_key: context.key(keys::LEADER), epoch_create_revision: kept.created };
        let sent = clock::now();
        match context.store.renew(renewal, settings.retry_timeout).await {
            Ok(id) => {
                let times = RenewalTimes { sent, answered: clock::now() };
                let deadline = lease::deadline(times, kept.granted, &settings);
                let lease = Lease { epoch: kept.epoch, created: kept.created, granted: kept.granted, deadline };
                if context.lease.any().is_none() {
                    tracing::info!(epoch = %kept.epoch, "goes on with the lease that was left in the pause");
                    context.lease.begin(Held { lease, id });
                    context.wake(Event::LeaseChanged);
                }
                return;
            }
            Err(error) if error.refusal().is_some() => {
                tracing::info!(epoch = %kept.epoch, error = %chain(&error), "the lease that was left in the pause is over");
                return;
            }
            Err(error) => {
                tracing::debug!(epoch = %kept.epoch, error = %chain(&error), "whether the lease is still there is not known");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}
