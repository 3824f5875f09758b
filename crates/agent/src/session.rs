//! The session of this member in the store: the lease that its own key hangs on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgbaton_store::{LeaseId, Op, Renewal, Store, StoreError, Txn};
use pgbaton_types::{BootTime, MemberName, Revision};

use crate::clock;

/// A session is renewed after this share of its ttl: three renewals may fail before it ends. Nothing is decided by it, so that more of them
/// would only cost each voter's time.
const RENEWALS_PER_TTL: u32 = 4;

/// The session; none before the member's record was first published.
#[derive(Debug)]
pub(crate) struct Session {
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
    pub(crate) fn new(prefix: &str, me: &MemberName) -> Self {
        Self { key: format!("{prefix}{}{me}", crate::keys::MEMBERS), state: Mutex::new(None) }
    }

    /// The lease, while there is one.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.locked().as_ref().map(|open| open.lease)
    }

    /// Keeps the session alive and the record as it should be. A session that was lost is begun anew.
    pub(crate) async fn publish(
        &self,
        store: &dyn Store,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
    ) -> Result<(), StoreError> {
        let open = self.locked().clone();
        let Some(open) = open else { return self.begin(store, value, ttl, deadline).await };
        let now = clock::now();
        if open.value == value && now.since(open.renewed) < ttl / RENEWALS_PER_TTL {
            return Ok(());
        }
        let renewal = Renewal { lease: open.lease, leader_key: self.key.clone(), epoch_create_revision: open.created };
        if let Err(error) = store.keep_session(renewal, deadline).await {
            if error.refusal().is_some() {
                *self.locked() = None;
                return self.begin(store, value, ttl, deadline).await;
            }
            return Err(error);
        }
        if open.value != value {
            let put = Op::put_leased(&self.key, value, open.lease);
            store.txn(Txn::of(vec![put]), deadline).await?;
        }
        *self.locked() = Some(Open { value: value.to_vec(), renewed: now, ..open });
        Ok(())
    }

    async fn begin(
        &self,
        store: &dyn Store,
        value: &[u8],
        ttl: Duration,
        deadline: Duration,
    ) -> Result<(), StoreError> {
        let renewed = clock::now();
        let lease = store.lease_grant(ttl, deadline).await?.id;
        // A record that an earlier life of this agent left keeps its creation: the read tells which.
        let put = vec![Op::put_leased(&self.key, value, lease), Op::get(&self.key)];
        let result = store.txn(Txn::of(put), deadline).await?;
        let created = result.responses.into_iter().find_map(|response| match response {
            pgbaton_store::OpResponse::Got(pair) => pair.map(|pair| pair.create_revision),
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
