//! Taking and giving back the lease: the only writes to the leader key.

use std::time::Duration;

use pgbaton_api::layout::FailoverRecord;
use pgbaton_core::lease::{self, RenewalTimes};
use pgbaton_core::observation::{Initialize, Lease};
use pgbaton_store::{Compare, LeaseId, Op, OpResponse, StoreError, Txn};
use pgbaton_types::{Epoch, MemberName, Revision, SystemId, TimelineId};

use crate::clock;
use crate::context::Context;
use crate::keeper::Held;
use crate::keys;
use crate::state::{KeptLease, StateError};

/// How long the loop waits for the store in one action. Longer than an answer takes in a store that is well; the next decision sees what
/// is there, also when the store did it later. A lease is of use only to who has heard that it was granted: for it
/// [`lease::acquire_time`] counts.
pub(crate) const ACTION_TIME: Duration = Duration::from_millis(1000);

/// Why an action on the lease did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseActionError {
    /// The store did not do it.
    #[error("the store did not take it")]
    Store(#[from] StoreError),
    /// Somebody was faster, or something changed since the decision.
    #[error("another member was faster")]
    Overtaken,
    /// The epoch would not be above one that was promised.
    #[error("the base of epochs could not be raised above {0}")]
    Base(Epoch),
    /// The lease had run out when the answer came.
    #[error("the store's answer came after the lease's deadline")]
    Late,
    /// The agent could not keep a record of it.
    #[error("the lease is not kept")]
    State(#[from] StateError),
    /// The guard did not take the deadline.
    #[error("the guard did not take the deadline")]
    Guard(#[from] pgbaton_guard::client::ClientError),
}

/// What the decision saw in the store, compared once more by the transaction that takes the lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Revision of the timeline number that was given out last; none: there was none.
    pub(crate) reservation: Option<Revision>,
    /// The cluster's identity.
    pub(crate) initialize: Initialize,
}

/// What is written together with the leader key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// The timeline number for the promotion that follows.
    pub(crate) reserve: TimelineId,
    /// The cluster's identity, when the store does not know it.
    pub(crate) identity: Option<SystemId>,
}

/// Takes the lease that nobody holds. On success the guard is armed before anybody is told.
pub(crate) async fn acquire(
    context: &Context,
    promised: Epoch,
    taken: Taken,
    seen: Seen,
    ttl: Duration,
) -> Result<Epoch, LeaseActionError> {
    let limit = lease::acquire_time(&context.config().settings);
    let base = raise_base(context, promised, seen.initialize, limit).await?;
    let sent = clock::now();
    context.lease.attempt(sent + ttl);
    let granted = context.store.lease_grant(ttl, limit).await?;
    let created = match create(context, granted.id, taken, seen, base, limit).await {
        Ok(created) => created,
        Err(error) => {
            if matches!(error, LeaseActionError::Overtaken) {
                context.lease.attempt_answered();
            }
            // The lease would hold nothing; without this it runs out by itself.
            let revoked = context.store.lease_revoke(granted.id, ACTION_TIME).await;
            tracing::debug!(?revoked, "the lease that was not used");
            return Err(error);
        }
    };
    let config = context.config();
    let epoch = Epoch::of(created.base, created.revision);
    let times = RenewalTimes { sent, answered: clock::now() };
    let deadline = lease::deadline(times, granted.ttl, &config.settings);
    if clock::now().reached(deadline) {
        return Err(LeaseActionError::Late);
    }
    if epoch <= promised {
        return Err(LeaseActionError::Base(promised));
    }
    let kept = KeptLease { epoch, created: created.revision, id: granted.id, granted: granted.ttl };
    context.keep(|state| {
        state.promised = state.promised.max(epoch);
        state.lease = Some(kept);
    })?;
    if !config.settings.paused {
        context.guard.extend(epoch.0, deadline.0)?;
    }
    let lease = Lease { epoch, created: created.revision, granted: granted.ttl, deadline };
    context.lease.begin(Held { lease, id: granted.id });
    context.lease.attempt_answered();
    Ok(epoch)
}

struct Created {
    revision: Revision,
    base: u64,
}

async fn create(
    context: &Context,
    id: LeaseId,
    taken: Taken,
    seen: Seen,
    base: Compare,
    limit: Duration,
) -> Result<Created, LeaseActionError> {
    let (leader, timelines) = (context.key(keys::LEADER), context.key(keys::TIMELINES));
    let initialize = context.key(keys::INITIALIZE);
    let same_cluster = match seen.initialize {
        Initialize::Absent => Compare::absent(&initialize),
        // An empty one may be another member's by now.
        Initialize::UnderWay { .. } => match context.session.lease().filter(|_| !context.lists_no_hosts) {
            Some(session) => Compare::under_lease(&initialize, session),
            None => Compare::Value { key: initialize.clone(), value: Vec::new() },
        },
        Initialize::Done(system_id) => {
            Compare::Value { key: initialize.clone(), value: system_id.to_string().into_bytes() }
        }
    };
    // Whoever made the cluster by a claim of its own still has it.
    let claim = context.lists_no_hosts && matches!(seen.initialize, Initialize::UnderWay { .. });
    let claim = claim.then(|| Compare::Value { key: context.key(keys::CLAIM), value: context.me.as_str().into() });
    let reservation = Compare::modified_at(&timelines, seen.reservation.unwrap_or_default());
    let identity = taken.identity.map(|system_id| Op::put(initialize, system_id.to_string()));
    let puts = [
        Op::put_leased(&leader, context.me.as_str(), id),
        Op::put(&timelines, taken.reserve.to_string()),
        Op::get(context.key(keys::BASE)),
    ];
    let compares = [Compare::absent(&leader), reservation, same_cluster, base].into_iter().chain(claim).collect();
    let txn = Txn::when(compares, puts.into_iter().chain(identity).collect());
    match context.store.txn(txn, limit).await {
        Ok(result) if result.succeeded => Ok(Created { revision: result.revision, base: base_in(&result.responses) }),
        Ok(_) => Err(LeaseActionError::Overtaken),
        Err(error) if error.is_indeterminate() => {
            read_back(context, id, limit).await?.ok_or(LeaseActionError::Store(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// After an answer that got lost: whether the key is there and hangs on this lease.
async fn read_back(context: &Context, id: LeaseId, limit: Duration) -> Result<Option<Created>, LeaseActionError> {
    let leader = context.key(keys::LEADER);
    let read = Txn::of(vec![Op::get(&leader), Op::get(context.key(keys::BASE))]);
    let result = context.store.txn(read, limit).await?;
    let found = result.responses.iter().find_map(|response| match response {
        OpResponse::Got(Some(pair)) if pair.key == leader && pair.lease == Some(id) => Some(pair.create_revision),
        _ => None,
    });
    Ok(found.map(|revision| Created { revision, base: base_in(&result.responses[1..]) }))
}

fn base_in(responses: &[OpResponse]) -> u64 {
    let got = responses.iter().find_map(|response| match response {
        OpResponse::Got(Some(pair)) => keys::text(pair).parse().ok(),
        _ => None,
    });
    got.unwrap_or(0)
}

/// An epoch is never below one that was promised, also in a store that was restored or exchanged. Returns what the
/// transaction that takes the lease compares: the base is still the one that was reckoned with.
async fn raise_base(
    context: &Context,
    promised: Epoch,
    initialize: Initialize,
    limit: Duration,
) -> Result<Compare, LeaseActionError> {
    let seen = context.view.get();
    let base = keys::base(&seen.keys);
    let key = context.key(keys::BASE);
    let known = seen.keys.get(keys::BASE).map(|pair| pair.mod_revision).unwrap_or_default();
    let as_seen = Compare::modified_at(&key, known);
    let Some(needed) = lease::base_to_raise(promised, base, seen.revision, initialize) else { return Ok(as_seen) };
    let value = needed.to_string();
    let txn = Txn::when(vec![as_seen, Compare::absent(context.key(keys::LEADER))], vec![Op::put(&key, value.clone())]);
    let result = context.store.txn(txn, limit).await?;
    let raised = Compare::Value { key, value: value.into_bytes() };
    if result.succeeded { Ok(raised) } else { Err(LeaseActionError::Overtaken) }
}

/// Gives the lease back, naming who is proven to hold everything. It is forgotten here before the store is asked.
pub(crate) async fn release(
    context: &Context,
    created: Revision,
    successor: Option<&MemberName>,
) -> Result<(), LeaseActionError> {
    let held = context.lease.forget();
    context.keep(|state| state.lease = None)?;
    let leader = context.key(keys::LEADER);
    let mut ops = vec![Op::delete(&leader)];
    if let Some(successor) = successor {
        let record = FailoverRecord {
            leader: Some(context.me.to_string()),
            member: Some(successor.to_string()),
            scheduled_at: None,
            handed_over: true,
        };
        let text = pgbaton_api::to_compact(&record).unwrap_or_default();
        ops.push(Op::put(context.key(keys::FAILOVER), text));
    }
    // In a store that was wiped, another member's key may have been created at the same revision.
    // Not the lease: a renewal under way may just hang the key on another one.
    let compares = vec![
        Compare::created_at(&leader, created),
        Compare::Value { key: leader.clone(), value: context.me.as_str().into() },
    ];
    let result = context.store.txn(Txn::when(compares, ops), ACTION_TIME).await?;
    if let Some(held) = held.filter(|_| result.succeeded) {
        let (store, id) = (std::sync::Arc::clone(&context.store), held.id);
        // Only tidiness: nothing hangs on it any more.
        context.services.spawn(async move {
            if let Err(error) = store.lease_revoke(id, ACTION_TIME).await {
                tracing::debug!(%error, "the lease that was given back runs out by itself");
            }
        });
    }
    if result.succeeded { Ok(()) } else { Err(LeaseActionError::Overtaken) }
}
