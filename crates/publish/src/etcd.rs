use std::time::Duration;

use pgbaton_store::{Compare, LeaseId, Op, OpResponse, Refusal, Renewal, Store as _, Txn};
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
    /// What the heartbeat hangs on, or is to hang on.
    lease: Option<LeaseId>,
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
            lease: None,
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
                Err(error) if error.refusal().is_some() => (self.session, self.lease) = (None, None),
                kept => return kept.map_err(TargetError::Etcd),
            }
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => self.store.lease_grant(self.heartbeat, self.within).await.map_err(TargetError::Etcd)?.id,
        };
        // Known before it is used: what this is not told of may have been done.
        self.lease = Some(lease);
        let key = &self.heartbeat_key;
        let put = Op::put_leased(key, self.publisher.as_bytes(), lease);
        let first = Txn { failure: vec![Op::get(key)], ..Txn::when(vec![Compare::absent(key)], vec![put]) };
        let mut made = match self.store.txn(first, self.within).await {
            Ok(made) => made,
            Err(error) => {
                // Any other one is put under the same lease the next time.
                if let Some(Refusal::LeaseNotFound(_)) = error.refusal() {
                    self.lease = None;
                }
                return Err(TargetError::Etcd(error));
            }
        };
        let epoch_create_revision = match made.responses.pop() {
            _ if made.succeeded => made.revision,
            Some(OpResponse::Got(Some(own))) if own.lease == Some(lease) => own.create_revision,
            _ => {
                self.end(lease).await;
                self.lease = None;
                return Err(TargetError::NameTaken { at: self.heartbeat_key.clone() });
            }
        };
        self.session = Some(Renewal { lease, leader_key: self.heartbeat_key.clone(), epoch_create_revision });
        Ok(())
    }

    pub(crate) fn beat_interval(&self) -> Duration {
        self.heartbeat / BEATS_PER_LEASE
    }

    pub(crate) async fn close(self) {
        if let Some(lease) = self.lease {
            self.end(lease).await;
        }
    }

    /// Ends a lease; otherwise it runs out by itself.
    async fn end(&self, lease: LeaseId) {
        match self.store.lease_revoke(lease, self.within).await {
            Err(error) if !matches!(error.refusal(), Some(Refusal::LeaseNotFound(_))) => {
                tracing::debug!(%error, "a heartbeat ends by itself");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing here takes so long.
    const WITHIN: Duration = Duration::from_secs(20);
    const BEAT: &str = "/record/publishers/me";

    #[tokio::test]
    async fn a_heartbeat_of_whose_making_nothing_was_heard_is_its_makers() {
        let server = pgbaton_testkit::Etcd::start(1).unwrap();
        let options = Options { endpoints: server.endpoints(), ..Options::default() };
        let other = EtcdStore::new(&options).unwrap();
        let there = async || other.snapshot(BEAT, WITHIN).await.unwrap().get(BEAT).is_some();
        let publisher = || Etcd::new(&options, "/record", "me", Duration::from_secs(60), WITHIN).unwrap();

        let mut unheard = publisher();
        let lease = other.lease_grant(Duration::from_secs(60), WITHIN).await.unwrap().id;
        other.txn(Txn::of(vec![Op::put_leased(BEAT, "me", lease)]), WITHIN).await.unwrap();
        unheard.lease = Some(lease);
        let taken = publisher().beat().await.unwrap_err();
        assert!(matches!(taken, TargetError::NameTaken { .. }), "{taken:?}");
        unheard.beat().await.unwrap();
        unheard.beat().await.unwrap();
        unheard.close().await;
        assert!(!there().await, "it goes with an orderly end");

        // One that has run out before it was used.
        let mut late = publisher();
        late.lease = Some(lease);
        late.beat().await.unwrap_err();
        late.beat().await.unwrap();
        assert!(there().await);
    }
}
