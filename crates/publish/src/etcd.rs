use std::time::Duration;

use pgbaton_store::{Compare, Op, OpResponse, Refusal, Renewal, Store as _, Txn};
use pgbaton_store_etcd::{EtcdStore, Options};
use pgbaton_types::Revision;

use crate::record::{Judgement, Record};
use crate::target::{Outcome, TRIES, TargetError, judge};

/// Words in the time of a heartbeat: two may get lost.
const BEATS_PER_LEASE: u32 = 3;

/// A key in an etcd that need not be the cluster's store.
pub(crate) struct Etcd {
    store: EtcdStore,
    key: String,
    heartbeat_key: String,
    heartbeat: Duration,
    publisher: String,
    within: Duration,
    /// The heartbeat that is there by this publisher.
    session: Option<Renewal>,
}

impl Etcd {
    pub(crate) fn new(
        options: &Options,
        key: &str,
        publisher: &str,
        heartbeat: Duration,
        within: Duration,
    ) -> Result<Self, TargetError> {
        Ok(Self {
            store: EtcdStore::new(options).map_err(TargetError::Options)?,
            key: key.to_owned(),
            heartbeat_key: format!("{key}/publishers/{publisher}"),
            heartbeat,
            publisher: publisher.to_owned(),
            within,
            session: None,
        })
    }

    pub(crate) async fn publish(&self, record: &Record) -> Result<Outcome, TargetError> {
        for _ in 0..TRIES {
            let read = self.store.txn(Txn::of(vec![Op::get(&self.key)]), self.within).await;
            let mut responses = read.map_err(TargetError::Etcd)?.responses;
            let there = match responses.pop() {
                Some(OpResponse::Got(Some(pair))) => (pair.value, pair.mod_revision),
                _ => (Vec::new(), Revision(0)),
            };
            match judge(record, &there.0, &self.key)? {
                Judgement::Same => return Ok(Outcome::Unchanged),
                Judgement::Older => return Ok(Outcome::Older),
                Judgement::Write => {}
            }
            let unchanged = vec![Compare::modified_at(&self.key, there.1)];
            let write = Txn::when(unchanged, vec![Op::put(&self.key, record.text())]);
            let written = self.store.txn(write, self.within).await.map_err(TargetError::Etcd)?;
            if written.succeeded {
                return Ok(Outcome::Written);
            }
        }
        Err(TargetError::Contended { at: self.key.clone() })
    }

    pub(crate) async fn beat(&mut self) -> Result<(), TargetError> {
        if let Some(session) = self.session.clone() {
            match self.store.keep_session(session, self.within).await {
                Err(error) if error.refusal().is_some() => self.session = None,
                kept => return kept.map_err(TargetError::Etcd),
            }
        }
        let lease = self.store.lease_grant(self.heartbeat, self.within).await.map_err(TargetError::Etcd)?;
        let key = &self.heartbeat_key;
        let put = Op::put_leased(key, self.publisher.as_bytes(), lease.id);
        let made = self.store.txn(Txn::when(vec![Compare::absent(key)], vec![put]), self.within).await;
        let made = made.map_err(TargetError::Etcd)?;
        if !made.succeeded {
            self.end(lease.id).await;
            return Err(TargetError::NameTaken { at: key.clone() });
        }
        let epoch_create_revision = made.revision;
        self.session = Some(Renewal { lease: lease.id, leader_key: key.clone(), epoch_create_revision });
        Ok(())
    }

    pub(crate) fn beat_interval(&self) -> Duration {
        self.heartbeat / BEATS_PER_LEASE
    }

    pub(crate) async fn close(self) {
        if let Some(session) = &self.session {
            self.end(session.lease).await;
        }
    }

    /// Ends a lease; otherwise it runs out by itself.
    async fn end(&self, lease: pgbaton_store::LeaseId) {
        match self.store.lease_revoke(lease, self.within).await {
            Err(error) if !matches!(error.refusal(), Some(Refusal::LeaseNotFound(_))) => {
                tracing::debug!(%error, "a heartbeat ends by itself");
            }
            _ => {}
        }
    }
}
