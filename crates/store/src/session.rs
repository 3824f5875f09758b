//! A key that says that somebody is there: it hangs on a lease of its own, which its owner keeps alive.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgbaton_types::{BootTime, Revision};

use crate::{LeaseId, Op, OpResponse, Renewal, Store, StoreError, Txn};

/// A session is renewed after this share of its ttl: three renewals may fail before it ends. Nothing is decided by it, so that more of them
/// would only cost each voter's time.
const RENEWALS_PER_TTL: u32 = 4;

/// A key with its lease; there is none before it was first published.
#[derive(Debug)]
pub struct Session {
    key: String,
    state: Mutex<Option<Open>>,
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
    pub async fn publish(
        &self,
        store: &dyn Store,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
        now: BootTime,
    ) -> Result<(), StoreError> {
        let open = self.locked().clone();
        let Some(open) = open else { return self.begin(store, value, ttl, deadline, now).await };
        let due = now.since(open.renewed) >= ttl / RENEWALS_PER_TTL;
        if !due {
            // Who waits for a new value does not wait for a renewal that is not due, too.
            return if open.value == value {
                Ok(())
            } else {
                self.change(store, &open, value, ttl, deadline, now).await
            };
        }
        let renewal = Renewal { lease: open.lease, leader_key: self.key.clone(), epoch_create_revision: open.created };
        if let Err(error) = store.keep_session(renewal, deadline).await {
            if error.refusal().is_some() {
                *self.locked() = None;
                return self.begin(store, value, ttl, deadline, now).await;
            }
            return Err(error);
        }
        if open.value == value {
            *self.locked() = Some(Open { renewed: now, ..open });
            return Ok(());
        }
        let open = Open { renewed: now, ..open };
        self.change(store, &open, value, ttl, deadline, now).await
    }

    async fn change(
        &self,
        store: &dyn Store,
        open: &Open,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
        now: BootTime,
    ) -> Result<(), StoreError> {
        let put = Op::put_leased(&self.key, value, open.lease);
        match store.txn(Txn::of(vec![put]), deadline).await {
            Ok(_) => {
                *self.locked() = Some(Open { value: value.to_vec(), ..open.clone() });
                Ok(())
            }
            // The lease is not there any more.
            Err(error) if error.refusal().is_some() => {
                *self.locked() = None;
                self.begin(store, value, ttl, deadline, now).await
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

    async fn begin(
        &self,
        store: &dyn Store,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
        renewed: BootTime,
    ) -> Result<(), StoreError> {
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
