//! Carrying out actions: checked once more right before the step that cannot be undone, then done, then reported.

use std::sync::Arc;

use pgbaton_core::decision::Disarm;
use pgbaton_core::execution::{self, Facts};
use pgbaton_core::{Action, CHECKPOINT_TIME, Observation};
use pgbaton_store::{Compare, Op, StoreError, Txn};
use pgbaton_types::{BootTime, Epoch, Revision, SystemId, chain};

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::keys;
use crate::lease_actions::{self, ACTION_TIME, LeaseActionError, Seen, Taken};
use crate::observe;

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("not done: {0}")]
    Stale(execution::Stale),
    #[error(transparent)]
    Lease(#[from] LeaseActionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Guard(#[from] pgbaton_guard::client::ClientError),
    #[error("this member has no session in the store yet")]
    NoSession,
    #[error("something changed since it was decided")]
    Changed,
}

/// Checks an action against the facts of this moment.
pub(crate) fn check(context: &Context, seen: &Observation, action: &Action) -> Result<(), ActionError> {
    let settings = &context.config().settings;
    let now = clock::now();
    let status = context.guard.status()?;
    let cluster = keys::cluster(&context.view.keys(), context.own(), now, 0);
    let facts = Facts {
        now,
        lease: context.lease.valid(now, settings.paused).map(|held| held.lease),
        renewing: context.lease.renewing(),
        armed: status.deadline.map(|_| Epoch(status.epoch)),
        paused: settings.paused,
        tree_alive: status.tree_alive,
        proven_standby: seen.local.server.is_guarded_standby(),
        leader: cluster.leader.as_ref(),
        bugs: settings.bugs,
    };
    execution::check(action, &facts).map_err(ActionError::Stale)
}

/// Takes the key `initialize` for a new cluster: as long as this member's session lives, where the other hosts can be asked for data before
/// anybody else claims it. Where nobody lists the hosts it outlives its maker, whose database would be known to nobody otherwise.
pub(crate) async fn claim_bootstrap(context: &Context) -> Result<(), ActionError> {
    let session = context.session.lease().ok_or(ActionError::NoSession)?;
    let key = context.key(keys::INITIALIZE);
    if context.lists_no_hosts {
        let claim = vec![Op::put(&key, ""), Op::put(context.key(keys::CLAIM), context.me.as_str())];
        return compared(context, Txn::when(vec![Compare::absent(&key)], claim)).await;
    }
    compared(context, Txn::when(vec![Compare::absent(&key)], vec![Op::put_leased(&key, "", session)])).await
}

/// Gives an own claim up, if it is still one.
pub(crate) async fn withdraw_claim(context: &Context) -> Result<(), ActionError> {
    let (key, claim) = (context.key(keys::INITIALIZE), context.key(keys::CLAIM));
    let own = if context.lists_no_hosts {
        Compare::Value { key: claim.clone(), value: context.me.as_str().into() }
    } else {
        Compare::under_lease(&key, context.session.lease().ok_or(ActionError::NoSession)?)
    };
    let empty = Compare::Value { key: key.clone(), value: Vec::new() };
    compared(context, Txn::when(vec![empty, own], vec![Op::delete(key), Op::delete(claim)])).await
}

/// Records the identity, if nobody has.
pub(crate) async fn record_initialize(context: &Context, system_id: SystemId) -> Result<(), ActionError> {
    let held = context.lease.valid(clock::now(), context.config().settings.paused).ok_or(ActionError::Changed)?;
    let key = context.key(keys::INITIALIZE);
    let seen = context.view.keys().get(keys::INITIALIZE).map(|pair| pair.mod_revision).unwrap_or_default();
    let compares = vec![
        Compare::created_at(context.key(keys::LEADER), held.lease.created),
        Compare::Value { key: context.key(keys::LEADER), value: context.me.as_str().into() },
        Compare::modified_at(&key, seen),
    ];
    let done = vec![Op::put(&key, system_id.to_string()), Op::delete(context.key(keys::CLAIM))];
    compared(context, Txn::when(compares, done)).await
}

/// Empties the request for a switchover or failover.
pub(crate) async fn clear_failover(context: &Context, revision: Revision) -> Result<(), ActionError> {
    let key = context.key(keys::FAILOVER);
    compared(context, Txn::when(vec![Compare::modified_at(&key, revision)], vec![Op::put(&key, "{}")])).await
}

async fn compared(context: &Context, txn: Txn) -> Result<(), ActionError> {
    let result = context.store.txn(txn, ACTION_TIME).await?;
    if result.succeeded { Ok(()) } else { Err(ActionError::Changed) }
}

/// Has the guard enforce nothing.
pub(crate) fn disarm(context: &Context, why: Disarm) -> Result<(), ActionError> {
    let reason = match why {
        Disarm::Stopped => pgbaton_guard::wire::Disarm::Stopped,
        Disarm::Standby => pgbaton_guard::wire::Disarm::Standby,
        Disarm::Paused => pgbaton_guard::wire::Disarm::Paused,
    };
    Ok(context.guard.disarm(reason)?)
}

/// Begins a checkpoint; its end is an event.
pub(crate) fn checkpoint(context: &Arc<Context>, asked: BootTime) {
    let context = Arc::clone(context);
    tokio::spawn(async move {
        if let Err(error) = observe::client(&context.spec()).checkpoint(CHECKPOINT_TIME).await {
            tracing::info!(error = %chain(&error), "the checkpoint before the handover did not complete");
        }
        if context.events.send(Event::Checkpointed { asked }).await.is_err() {
            tracing::debug!("the loop ended before a checkpoint");
        }
    });
}

/// Takes the lease.
pub(crate) async fn acquire(context: &Context, action: &Action) -> Result<(), ActionError> {
    let Action::AcquireLease { reserve, reservation_seen, initialize_seen, identity, ttl, above } = action else {
        return Err(ActionError::Changed);
    };
    let seen = Seen { reservation: *reservation_seen, initialize: *initialize_seen };
    let taken = Taken { reserve: *reserve, identity: *identity };
    let epoch = lease_actions::acquire(context, *above, taken, seen, *ttl).await?;
    tracing::info!(%epoch, "holds the lease");
    Ok(())
}
