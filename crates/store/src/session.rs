//! A key that says that somebody is there: it hangs on a lease of its own, which its owner keeps alive.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgbaton_types::{BootTime, Revision};

use crate::{LeaseId, Op, OpResponse, Refusal, Renewal, Store, StoreError, Txn};

/// A session is renewed after this share of its ttl: three renewals may fail before it ends. Nothing is decided by it, so that more of them
/// would only cost each voter's time.
const RENEWALS_PER_TTL: u32 = 4;

/// A key with its lease; there is none before it was first published.
#[derive(Debug)]
pub struct Session {
    key: String,
    state: Mutex<Option<Open>>,
}

/// How a session is kept.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long it stays without a renewal.
    pub ttl: Duration,
    /// How long an answer of the store is waited for.
    pub deadline: Duration,
    /// The time before the call.
    pub now: BootTime,
}

#[derive(Debug, Clone)]
struct Open {
    lease: LeaseId,
    created: Revision,
    value: Vec<u8>,
    /// When the last renewal that succeeded was sent.
    renewed: BootTime,
}

impl Session {
    /// One for this key; nothing is asked yet.
    pub fn new(key: String) -> Self {
        Self { key, state: Mutex::new(None) }
    }

    /// The lease, while there is one.
    pub fn lease(&self) -> Option<LeaseId> {
        self.locked().as_ref().map(|open| open.lease)
    }

    /// Keeps the session alive and the value of the key as it should be; to be called several times per `ttl`. A session that was lost is begun
    /// anew. `now` is the time before this call.
    ///
    /// # Errors
    /// The store's; it is to be tried again.
    pub async fn publish(
        &self,
        store: &dyn Store,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
        now: BootTime,
    ) -> Result<(), StoreError> {
        self.publish_with(store, value, &mut None, Terms { ttl, deadline, now }).await
    }

    /// The same, and takes `more` along if the value is written anyway: in one transaction, which others see at once and which is synced once. What
    /// was not taken is left there. Its value is written whether or not the conditions of `more` hold.
    ///
    /// # Errors
    /// The store's; it is to be tried again.
    pub async fn publish_with(
        &self,
        store: &dyn Store,
        value: &[u8],
        more: &mut Option<Txn>,
        terms: Terms,
    ) -> Result<(), StoreError> {
        let open = self.locked().clone();
        let Some(mut open) = open else { return self.begin(store, value, terms).await };
        // Who waits for a new value does not wait for a renewal that is not due, too.
        if terms.now.since(open.renewed) >= terms.ttl / RENEWALS_PER_TTL {
            let (lease, leader_key) = (open.lease, self.key.clone());
            let renewal = Renewal { lease, leader_key, epoch_create_revision: open.created };
            match store.keep_session(renewal, terms.deadline).await {
                Ok(()) => open.renewed = terms.now,
                Err(error) if error.refusal().is_some() => {
                    *self.locked() = None;
                    return self.begin(store, value, terms).await;
                }
                Err(error) => return Err(error),
            }
            *self.locked() = Some(open.clone());
        }
        if open.value == value {
            return Ok(());
        }
        self.change(store, open, value, more, terms).await
    }

    async fn change(
        &self,
        store: &dyn Store,
        open: Open,
        value: &[u8],
        more: &mut Option<Txn>,
        terms: Terms,
    ) -> Result<(), StoreError> {
        let put = Op::put_leased(&self.key, value, open.lease);
        let txn = match more.clone() {
            None => Txn::of(vec![put]),
            Some(Txn { compares, mut success, mut failure }) => {
                success.push(put.clone());
                failure.push(put);
                Txn { compares, success, failure }
            }
        };
        match store.txn(txn, terms.deadline).await {
            Ok(_) => {
                *more = None;
                *self.locked() = Some(Open { value: value.to_vec(), ..open });
                Ok(())
            }
            Err(error) if matches!(error.refusal(), Some(Refusal::LeaseNotFound(_) | Refusal::LeaseExpiring(_))) => {
                *self.locked() = None;
                self.begin(store, value, terms).await
            }
            // What was to be taken along may be what the store refuses: whoever asked for it hears so when it is written alone.
            Err(error) if error.refusal().is_some() && more.is_some() => {
                let alone = Txn::of(vec![Op::put_leased(&self.key, value, open.lease)]);
                store.txn(alone, terms.deadline).await?;
                *self.locked() = Some(Open { value: value.to_vec(), ..open });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the session, and with it the key.
    ///
    /// # Errors
    /// The store's; the session ends by itself later.
    pub async fn end(&self, store: &dyn Store, deadline: Duration) -> Result<(), StoreError> {
        let open = self.locked().take();
        match open {
            Some(open) => store.lease_revoke(open.lease, deadline).await,
            None => Ok(()),
        }
    }

    async fn begin(&self, store: &dyn Store, value: &[u8], terms: Terms) -> Result<(), StoreError> {
        let Terms { ttl, deadline, now: renewed } = terms;
        let lease = store.lease_grant(ttl, deadline).await?.id;
        // A key that an earlier life of its owner left keeps its creation: the read tells which.
        let put = vec![Op::put_leased(&self.key, value, lease), Op::get(&self.key)];
        let result = store.txn(Txn::of(put), deadline).await?;
        let created = result.responses.into_iter().find_map(|response| match response {
            OpResponse::Got(pair) => pair.map(|pair| pair.create_revision),
            _ => None,
        });
        let created = created.unwrap_or(result.revision);
        *self.locked() = Some(Open { lease, created, value: value.to_vec(), renewed });
        Ok(())
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
