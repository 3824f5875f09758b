//! The lease that is held, and its keeper: a timer of its own that renews it and hands each new deadline to the guard before anything else.
//!
//! It renews only while the loop lives and wants it: a lease must not outlive the judgement of whoever holds it. It never makes a
//! lease valid again whose deadline has passed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_core::lease::{self, RenewalTimes};
use pgbaton_core::observation::Lease;
use pgbaton_store::{LeaseId, Renewal};
use pgbaton_types::{BootTime, Epoch, chain};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::keys;
use crate::state::StateError;

/// Wait after a renewal that failed without a clear answer: an election of the store takes a second or two, and the first answer after it
/// shall not be missed by much.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A lease with the store's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) id: LeaseId,
}

/// The lease that is held, if any, and whether it may be renewed.
#[derive(Debug, Default)]
pub(crate) struct LeaseCell {
    held: Mutex<Option<Held>>,
    renewing: AtomicBool,
    wanted: AtomicBool,
    last_decision: AtomicU64,
    attempted: AtomicU64,
    changed: Notify,
}

impl LeaseCell {
    /// The lease, also past its deadline: until it is given back it tells which it was.
    pub(crate) fn any(&self) -> Option<Held> {
        *self.locked()
    }

    /// The lease, while its deadline has not passed. While paused nobody enforces the deadline, and losing the lease over it would help nobody.
    pub(crate) fn valid(&self, now: BootTime, paused: bool) -> Option<Held> {
        self.any().filter(|held| paused || !now.reached(held.lease.deadline))
    }

    /// Begins to hold a lease.
    pub(crate) fn begin(&self, held: Held) {
        *self.locked() = Some(held);
        self.changed.notify_one();
    }

    /// Goes on with a lease that an agent before this one held: it is renewed at once.
    pub(crate) fn resume(&self, held: Held) {
        *self.locked() = Some(held);
    }

    /// Forgets the lease, and says which it was.
    pub(crate) fn forget(&self) -> Option<Held> {
        self.locked().take()
    }

    /// A lease was asked for: until it is known what came of it, it may be held until then.
    pub(crate) fn attempt(&self, until: BootTime) {
        self.attempted.store(until.0, Ordering::SeqCst);
    }

    /// It is known what came of the last attempt.
    pub(crate) fn attempt_answered(&self) {
        self.attempted.store(0, Ordering::SeqCst);
    }

    /// Until when a lease may be held that was asked for without an answer.
    pub(crate) fn attempted_until(&self) -> BootTime {
        BootTime(self.attempted.load(Ordering::SeqCst))
    }

    /// A renewal is under way.
    pub(crate) fn renewing(&self) -> bool {
        self.renewing.load(Ordering::SeqCst)
    }

    /// The loop has decided; `renew`: the lease may be renewed until the next decision.
    pub(crate) fn pulse(&self, now: BootTime, renew: bool) {
        self.last_decision.store(now.0, Ordering::SeqCst);
        self.wanted.store(renew, Ordering::SeqCst);
    }

    fn may_renew(&self, now: BootTime, age_max: Duration) -> bool {
        let last = BootTime(self.last_decision.load(Ordering::SeqCst));
        self.wanted.load(Ordering::SeqCst) && now.since(last) <= age_max
    }

    fn locked(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease has another number from now on, if it is still that one.
    fn moved(&self, epoch: Epoch, id: LeaseId) {
        if let Some(held) = self.locked().as_mut().filter(|held| held.lease.epoch == epoch) {
            held.id = id;
        }
    }

    /// Moves the deadline on if this very lease is still held and has not run out.
    fn extend(&self, epoch: Epoch, deadline: BootTime, now: BootTime, paused: bool) -> bool {
        let mut held = self.locked();
        match held.as_mut() {
            Some(held) if held.lease.epoch == epoch && (paused || !now.reached(held.lease.deadline)) => {
                held.lease.deadline = held.lease.deadline.max(deadline);
                true
            }
            _ => false,
        }
    }
}

/// What came of one renewal.
enum Renewed {
    Extended,
    Lost,
    Failed,
}

/// Renews the lease for as long as the agent runs.
pub(crate) async fn keep(context: Arc<Context>) {
    loop {
        let settings = context.config().settings.clone();
        let now = clock::now();
        let period = lease::renew_period(&settings);
        let Some(held) = context.lease.valid(now, settings.paused) else {
            context.lease.changed.notified().await;
            if let Some(held) = context.lease.any() {
                sleep(lease::until_renewal(clock::now(), &held.lease, &settings)).await;
            }
            continue;
        };
        if !context.lease.may_renew(now, settings.retry_timeout.max(settings.loop_wait * 2)) {
            sleep(RETRY_PAUSE).await;
            continue;
        }
        match renew(&context, held).await {
            Renewed::Extended => sleep(period.saturating_sub(clock::now().since(now))).await,
            Renewed::Failed => sleep(RETRY_PAUSE).await,
            Renewed::Lost => {
                context.lease.forget();
                context.wake(Event::LeaseChanged);
            }
        }
    }
}

async fn renew(context: &Context, held: Held) -> Renewed {
    let settings = context.config().settings.clone();
    let sent = clock::now();
    let left = held.lease.deadline.since(sent);
    let deadline = if settings.paused { settings.retry_timeout } else { settings.retry_timeout.min(left) };
    let renewal =
        Renewal { lease: held.id, leader_key: context.key(keys::LEADER), epoch_create_revision: held.lease.created };
    context.lease.renewing.store(true, Ordering::SeqCst);
    // Any single try may hang on a voter that is gone: another one is made well before the lease ends.
    let limit = deadline.min(lease::request_time(held.lease.granted)).max(Duration::from_millis(10));
    let result = timeout(limit, context.store.renew(renewal, limit)).await;
    context.lease.renewing.store(false, Ordering::SeqCst);
    match result {
        Ok(Ok(id)) => {
            let times = RenewalTimes { sent, answered: clock::now() };
            let deadline = lease::deadline(times, held.lease.granted, &settings);
            match moved(context, held, id) {
                Ok(()) => extend(context, held, deadline, settings.paused),
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the lease's new number was not kept");
                    Renewed::Failed
                }
            }
        }
        Ok(Err(error)) if error.refusal().is_some() => {
            tracing::warn!(epoch = %held.lease.epoch, error = %chain(&error), "the lease is lost");
            Renewed::Lost
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "the lease was not renewed");
            Renewed::Failed
        }
        Err(_) => Renewed::Failed,
    }
}

/// The key hangs on another lease from now on: that is kept before it is reckoned with, for an agent after this one.
fn moved(context: &Context, held: Held, id: LeaseId) -> Result<(), StateError> {
    if id == held.id {
        return Ok(());
    }
    context.keep(|state| {
        if let Some(kept) = state.lease.as_mut().filter(|kept| kept.epoch == held.lease.epoch) {
            kept.id = id;
        }
    })?;
    context.lease.moved(held.lease.epoch, id);
    Ok(())
}

/// The guard first: what it does not enforce must not be believed.
fn extend(context: &Context, held: Held, deadline: BootTime, paused: bool) -> Renewed {
    let now = clock::now();
    if !paused {
        if now.reached(held.lease.deadline) || now.reached(deadline) {
            return Renewed::Lost;
        }
        if let Err(error) = context.guard.extend(held.lease.epoch.0, deadline.0) {
            tracing::error!(error = %chain(&error), "the guard did not take the new deadline");
            return Renewed::Failed;
        }
    }
    if !context.lease.extend(held.lease.epoch, deadline, now, paused) {
        return Renewed::Lost;
    }
    context.address.renewed(held.lease.epoch, deadline, context.config().settings.kill_time);
    Renewed::Extended
}

#[cfg(test)]
mod tests {
    use pgbaton_types::Revision;

    use super::*;

    fn held(deadline: u64) -> Held {
        let lease = Lease {
            epoch: Epoch(5),
            created: Revision(5),
            granted: Duration::from_secs(10),
            deadline: BootTime(deadline),
        };
        Held { lease, id: LeaseId(1) }
    }

    #[test]
    fn a_deadline_that_passed_is_never_moved_on() {
        let cell = LeaseCell::default();
        cell.begin(held(100));
        assert!(cell.extend(Epoch(5), BootTime(200), BootTime(99), false));
        assert!(!cell.extend(Epoch(5), BootTime(300), BootTime(200), false));
        assert_eq!(cell.valid(BootTime(200), false), None);
        assert!(cell.any().is_some(), "until it is given back it tells which it was");
    }

    #[test]
    fn another_reign_is_not_extended() {
        let cell = LeaseCell::default();
        cell.begin(held(100));
        assert!(!cell.extend(Epoch(4), BootTime(200), BootTime(10), false));
    }

    #[test]
    fn a_loop_that_stands_still_does_not_renew() {
        let cell = LeaseCell::default();
        cell.pulse(BootTime(1_000), true);
        assert!(cell.may_renew(BootTime(2_000), Duration::from_secs(1)));
        assert!(!cell.may_renew(BootTime(3_000_000_000), Duration::from_secs(1)));
        cell.pulse(BootTime(1_000), false);
        assert!(!cell.may_renew(BootTime(2_000), Duration::from_secs(1)));
    }
}
