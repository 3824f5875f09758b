use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use pgbaton_store::{
    BoxFuture, Command, Health, Lease, LeaseId, Renewal, Response, Snapshot, Store, StoreError, Txn, TxnResult, Watch,
};
use pgbaton_types::{Revision, chain};
use tokio::time::Instant;

use crate::EmbeddedStore;
use crate::codec;
use crate::node::{Node, lock};
use crate::protocol::{Operation, Outcome, PeerAnswer, PeerRequest};
use pgbaton_net::CallError;

/// The pause before a request is tried again when nothing says that anything has changed.
const RETRY_AFTER: Duration = Duration::from_millis(25);

/// How long a request that changes nothing waits for one leader before it looks whether there is another: a lost host
/// gives no answer, and by then there is a new leader.
const ATTEMPT_MAX: Duration = Duration::from_millis(700);

/// How long the answer to a change is still awaited after the leader that it was sent to has been replaced: when that host
/// is lost none will come, and the caller has to find out anyway.
const REPLACED_GRACE: Duration = Duration::from_millis(300);

/// What became of one attempt.
enum Attempt {
    Done(Outcome),
    Failed(StoreError),
    /// Nothing was done; again, for this reason.
    Again(String),
}

impl Node {
    /// Has the leader do an operation, whoever that is and becomes, within the deadline.
    pub(crate) async fn call(&self, operation: Operation, deadline: Duration) -> Result<Outcome, StoreError> {
        let end = Instant::now() + deadline;
        let mut metrics = self.raft.metrics();
        let mut problem = "no leader is known".to_owned();
        loop {
            if let Some(fatal) = lock(&self.fatal).clone() {
                problem = format!("this voter has stopped: {fatal}");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::unavailable(format!("{problem} (after {} ms)", deadline.as_millis())));
            }
            drop(metrics.borrow_and_update());
            let limit = if operation.changes() { left } else { left.min(ATTEMPT_MAX) };
            match self.attempt(&operation, limit).await {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(reason) => problem = reason,
            }
            let pause = RETRY_AFTER.min(end.saturating_duration_since(Instant::now()));
            // Whichever comes first; a closed channel means that Raft has stopped, and then only time passes.
            if !matches!(tokio::time::timeout(pause, metrics.changed()).await, Ok(Ok(()))) {
                tokio::time::sleep_until(end.min(Instant::now() + RETRY_AFTER)).await;
            }
        }
    }

    async fn attempt(&self, operation: &Operation, limit: Duration) -> Attempt {
        let Some((leader, address)) = self.leader() else {
            return Attempt::Again(self.why_no_leader());
        };
        let outcome = if leader == self.id() {
            self.serve(operation.clone(), limit).await
        } else {
            match self.forward(operation, leader, &address, limit).await {
                Ok(outcome) => outcome,
                Err(failed) => return failed,
            }
        };
        match outcome {
            Outcome::Refused(refusal) => Attempt::Failed(StoreError::Refused(refusal)),
            Outcome::NotLeader => Attempt::Again(format!("{address} does not lead any more")),
            Outcome::Unavailable(reason) => Attempt::Again(reason),
            Outcome::Indeterminate(reason) => Attempt::Failed(StoreError::indeterminate(reason)),
            done => Attempt::Done(done),
        }
    }

    /// Waits until this node knows another leader than that one.
    async fn replaced(&self, leader: u64) {
        let mut metrics = self.raft.metrics();
        loop {
            let known = metrics.borrow_and_update().current_leader;
            if known.is_some_and(|known| known != leader) {
                return;
            }
            if metrics.changed().await.is_err() {
                // Raft has stopped: nothing more is learnt here.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn forward(
        &self,
        operation: &Operation,
        leader: u64,
        address: &str,
        limit: Duration,
    ) -> Result<Outcome, Attempt> {
        let deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = codec::encode(&PeerRequest::Client { operation: operation.clone(), deadline_ms });
        let client = self.client(address);
        let sent = AtomicBool::new(false);
        let mut call = std::pin::pin!(client.call_noting(&request, limit, &sent));
        let answered = tokio::select! {
            biased;
            answered = call.as_mut() => answered,
            () = self.replaced(leader) => {
                if !(operation.changes() && sent.load(Ordering::Acquire)) {
                    return Err(Attempt::Again(format!("{address} was replaced as leader")));
                }
                tokio::time::timeout(REPLACED_GRACE, call).await.map_err(|_| {
                    let what = format!("{address} was replaced as leader before it answered");
                    Attempt::Failed(StoreError::indeterminate(what))
                })?
            }
        };
        match answered {
            Ok(bytes) => match codec::decode(&bytes) {
                Ok(PeerAnswer::Client(outcome)) => Ok(outcome),
                Ok(PeerAnswer::No(reason)) => Err(Attempt::Again(reason)),
                Ok(other) => Err(Attempt::Failed(StoreError::indeterminate(format!(
                    "the leader at {address} answered something else: {other:?}"
                )))),
                Err(error) => Err(Attempt::Failed(StoreError::Indeterminate {
                    what: format!("the answer of the leader at {address} is not readable"),
                    source: Some(Box::new(error)),
                })),
            },
            Err(error @ CallError::NoAnswer { .. }) if operation.changes() => {
                Err(Attempt::Failed(StoreError::Indeterminate {
                    what: format!("the leader at {address} gave no answer"),
                    source: Some(Box::new(error)),
                }))
            }
            Err(error) => Err(Attempt::Again(chain(&error))),
        }
    }

    /// Why there is no leader, as far as this node can tell.
    fn why_no_leader(&self) -> String {
        let facts = self.forming.facts();
        let silent: Vec<String> = facts.iter().filter_map(|fact| fact.answer.as_ref().err().cloned()).collect();
        if silent.is_empty() {
            "no leader is elected yet".to_owned()
        } else {
            format!("no leader; {}", silent.join("; "))
        }
    }
}

pub(crate) fn unexpected<T>(outcome: &Outcome) -> Result<T, StoreError> {
    Err(StoreError::Invalid(format!("an answer of another kind: {outcome:?}")))
}

impl Store for EmbeddedStore {
    fn snapshot<'a>(&'a self, prefix: &'a str, deadline: Duration) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            match self.node.call(Operation::Snapshot { prefix: prefix.to_owned() }, deadline).await? {
                Outcome::Snapshot(snapshot) => Ok(snapshot),
                other => unexpected(&other),
            }
        })
    }

    fn txn(&self, txn: Txn, deadline: Duration) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        Box::pin(async move {
            // What can never be applied must not enter the log: an entry may be larger than a segment.
            txn.validate()?;
            let operation =
                if txn.is_read_only() { Operation::Query(txn) } else { Operation::Change(Command::Txn(txn)) };
            match self.node.call(operation, deadline).await? {
                Outcome::Changed(Response::Txn(result)) | Outcome::Queried(result) => Ok(result),
                other => unexpected(&other),
            }
        })
    }

    fn lease_grant(&self, ttl: Duration, deadline: Duration) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(async move {
            let id = LeaseId(rand::random::<u64>().max(1));
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            match self.node.call(Operation::Change(Command::LeaseGrant { id, ttl_ms }), deadline).await? {
                Outcome::Changed(Response::Granted { id, ttl }) => Ok(Lease { id, ttl }),
                other => unexpected(&other),
            }
        })
    }

    fn lease_revoke(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self.node.call(Operation::Change(Command::LeaseRevoke { id }), deadline).await? {
                Outcome::Changed(Response::Ended { .. }) => Ok(()),
                other => unexpected(&other),
            }
        })
    }

    fn lease_time_to_live(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<Duration, StoreError>> {
        Box::pin(async move {
            match self.node.call(Operation::TimeToLive(id), deadline).await? {
                Outcome::TimeToLive(ttl) => Ok(ttl),
                other => unexpected(&other),
            }
        })
    }

    fn renew(&self, renewal: Renewal, deadline: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        let lease = renewal.lease;
        Box::pin(async move {
            match self.node.call(Operation::Renew(renewal), deadline).await? {
                Outcome::Done => Ok(lease),
                other => unexpected(&other),
            }
        })
    }

    fn keep_session(&self, session: Renewal, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        let renewed = self.renew(session, deadline);
        Box::pin(async move { renewed.await.map(drop) })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from_revision: Revision,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<Watch, StoreError>> {
        // Served by this node from what it applies: it needs nobody else.
        Box::pin(async move { Ok(self.node.machine.locked().ring.watch(prefix, from_revision)) })
    }

    fn health(&self, _deadline: Duration) -> BoxFuture<'_, Result<Health, StoreError>> {
        Box::pin(async move {
            let status = self.status();
            let revision = self.node.machine.locked().machine.revision();
            Ok(Health {
                leader: status.leader,
                is_leader: status.is_leader,
                term: status.term,
                voters: status.voters,
                revision,
                fatal: status.fatal,
            })
        })
    }
}
