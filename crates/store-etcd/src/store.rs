use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use pgbaton_etcd_proto::etcdserverpb::kv_client::KvClient;
use pgbaton_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use pgbaton_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pgbaton_etcd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberListRequest,
    RangeRequest, StatusRequest, TxnRequest,
};
use pgbaton_store::{
    BoxFuture, Compare, Health, Lease, LeaseId, Op, OpResponse, Refusal, Renewal, Snapshot, Store, StoreError, Txn,
    TxnResult, Voter, Watch,
};
use pgbaton_types::Revision;
use tokio::time::Instant;
use tonic::Status;

use crate::call::{Caller, Effect};
use crate::convert::{self, lease_number, range_end, range_start, unsigned};
use crate::discovery::Discovery;
use crate::endpoints::{Place, Reached};
use crate::options::{Options, OptionsError};
use crate::releases::Releases;
use crate::watching::Watching;

/// How many leases a lease may be exchanged for. One is drawn: that a number comes again while an old message about it is under way is as good as
/// impossible.
const SUCCESSORS: u64 = 1_024;

/// How long the end of a lease may take on which nothing hangs.
const TIDY_TIME: Duration = Duration::from_secs(2);

/// A store behind etcd's protocol. Connects when it is first asked something. Clones share their connections.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    pub(crate) caller: Arc<Caller>,
    options: Arc<Options>,
    discovery: Option<Arc<Discovery>>,
    releases: Arc<Releases>,
    /// The times to live of the leases that were granted here.
    leases: Arc<Mutex<HashMap<LeaseId, Duration>>>,
}

impl EtcdStore {
    /// A client of the store; must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the options make no sense, or the files that they name cannot be used. Whether anybody is there is not tried.
    pub fn new(options: &Options) -> Result<Self, OptionsError> {
        let caller = Arc::new(Caller::new(options)?);
        let discovery = Discovery::new(options).map(Arc::new);
        if let Some(discovery) = &discovery {
            let (discovery, caller) = (Arc::clone(discovery), Arc::downgrade(&caller));
            tokio::spawn(async move { discovery.run(caller).await });
        }
        Ok(Self {
            caller,
            options: Arc::new(options.clone()),
            discovery,
            releases: Arc::default(),
            leases: Arc::default(),
        })
    }

    /// Every endpoint that is known, each with a client that asks it alone.
    ///
    /// # Errors
    /// When the files for one that was found cannot be used.
    pub async fn each(&self) -> Result<Vec<(String, Self)>, OptionsError> {
        if let Some(discovery) = &self.discovery {
            discovery.look(&self.caller).await;
        }
        let one = |Reached { place: Place { address, secure }, .. }: Reached| {
            let tls = secure.then(|| self.options.tls.clone().unwrap_or_default());
            let options = Options {
                endpoints: vec![address.clone()],
                tls,
                user: self.options.user.clone(),
                ..Options::default()
            };
            Ok((address, Self::new(&options)?))
        };
        self.caller.endpoints().all().into_iter().map(one).collect()
    }

    async fn range(&self, prefix: &str, deadline: Duration) -> Result<Snapshot, StoreError> {
        let request =
            RangeRequest { key: range_start(prefix), range_end: range_end(prefix), ..RangeRequest::default() };
        let answer = self
            .caller
            .call(Effect::None, None, deadline, |route| {
                let request = route.request(request.clone());
                async move { Ok(KvClient::new(route.channel).range(request).await?.into_inner()) }
            })
            .await?;
        let revision = convert::revision(answer.header.as_ref())?;
        Ok(Snapshot { revision, items: answer.kvs.into_iter().filter_map(convert::key_value).collect() })
    }

    async fn transact(&self, txn: &Txn, deadline: Duration) -> Result<TxnResult, StoreError> {
        txn.validate()?;
        let effect = if txn.is_read_only() { Effect::None } else { Effect::Change };
        let mut request = convert::txn_request(txn);
        let only_compares = txn.success.is_empty() && txn.failure.is_empty();
        if let Some(compare) = txn.compares.first().filter(|_| only_compares) {
            // Without an operation any member would answer by what it happens to know (`isTxnSerializable` in etcd's `v3_server.go`).
            let read = convert::get(compare.key());
            (request.success, request.failure) = (vec![read.clone()], vec![read]);
        }
        let mut result = self.send_txn(effect, convert::lease_in(txn), request, deadline).await?;
        if only_compares {
            result.responses.clear();
        }
        Ok(result)
    }

    /// Extends a lease; the time to live that it has from its arrival.
    async fn keep_alive(&self, id: LeaseId, deadline: Duration) -> Result<Duration, StoreError> {
        let number = lease_number(Some(id));
        let answer = self
            .caller
            .call(Effect::None, Some(id), deadline, |route| async move {
                let requests = tokio_stream::once(LeaseKeepAliveRequest { id: number });
                let mut client = LeaseClient::new(route.channel.clone());
                let mut answers = client.lease_keep_alive(route.request(requests)).await?.into_inner();
                answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended without an answer"))
            })
            .await?;
        match answer.ttl {
            0 => Err(Refusal::LeaseNotFound(id).into()),
            seconds => Ok(Duration::from_secs(unsigned(seconds))),
        }
    }
}

/// What is left until then.
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

impl EtcdStore {
    /// A keep-alive proves the lease and not the key: it still answers after the key was deleted or put under another lease. So the key
    /// is read after it, linearizably, without a write. The reads in the transaction make it so: etcd takes one without any for
    /// serializable (`isTxnSerializable` in its `v3_server.go`).
    async fn keep_and_check(&self, renewal: Renewal, end: Instant) -> Result<(), StoreError> {
        self.keep_alive(renewal.lease, left(end)).await?;
        let holds = Txn {
            success: vec![Op::get(&renewal.leader_key)],
            failure: vec![Op::get(&renewal.leader_key)],
            ..held(&renewal)
        };
        let result = self.transact(&holds, left(end)).await?;
        if result.succeeded { Ok(()) } else { Err(not_holder(renewal, &result).into()) }
    }

    /// Puts the key under a new lease: what only the true leader of the store can do. Its creation stays.
    ///
    /// The key may hang on a successor of the given lease already: the answer to the last renewal got lost, here or with an agent that was
    /// killed. From there it is moved on, by comparing: of two that move it at once, one fails.
    async fn replace_lease(&self, renewal: Renewal, end: Instant) -> Result<LeaseId, StoreError> {
        let ttl = self.ttl_of(&renewal, end).await?;
        let new = self.grant_successor(renewal.lease, ttl, end).await?;
        let mut from = renewal.clone();
        let moved = loop {
            let result = self.move_to(&from, new, end).await.inspect_err(|_| {
                self.locked().remove(&new);
            })?;
            if result.succeeded {
                break Ok(from.lease);
            }
            match hangs_on(&result, &renewal) {
                Some(other) if other != from.lease && other != new => from.lease = other,
                _ => break Err(not_holder(renewal, &result)),
            }
        };
        let unused = moved.as_ref().map_or(new, |old| *old);
        self.locked().remove(&unused);
        let store = self.clone();
        // Only tidiness: nothing hangs on it, and it runs out by itself.
        tokio::spawn(async move {
            if let Err(error) = store.lease_revoke(unused, TIDY_TIME).await {
                tracing::debug!(%error, "a lease on which nothing hangs runs out by itself");
            }
        });
        Ok(moved.map(|_| new)?)
    }

    /// A lease that whoever knows the given one recognizes as exchanged for it.
    async fn grant_successor(&self, lease: LeaseId, ttl: Duration, end: Instant) -> Result<LeaseId, StoreError> {
        loop {
            let id = successor(lease, rand::random_range(1..=SUCCESSORS));
            match self.grant(lease_number(Some(id)), ttl, left(end)).await {
                // An agent that was killed has taken this one and not used it.
                Err(error) if says_it_exists(&error) => {}
                granted => return granted.map(|lease| lease.id),
            }
        }
    }

    /// Grants a lease of this number; 0: of one that etcd chooses.
    async fn grant(&self, number: i64, ttl: Duration, deadline: Duration) -> Result<Lease, StoreError> {
        // etcd counts in whole seconds, and grants more when that is less than its elections take.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let answer = self
            .caller
            // Of two, one runs out with nothing on it.
            .call(Effect::None, None, deadline, |route| async move {
                let request = route.request(LeaseGrantRequest { ttl: seconds, id: number });
                Ok(LeaseClient::new(route.channel).lease_grant(request).await?.into_inner())
            })
            .await?;
        if !answer.error.is_empty() {
            return Err(StoreError::Invalid(answer.error));
        }
        let lease = Lease { id: LeaseId(answer.id.cast_unsigned()), ttl: Duration::from_secs(unsigned(answer.ttl)) };
        self.locked().insert(lease.id, lease.ttl);
        Ok(lease)
    }

    async fn move_to(&self, from: &Renewal, new: LeaseId, end: Instant) -> Result<TxnResult, StoreError> {
        let key = &from.leader_key;
        let mut request = convert::txn_request(&Txn { failure: vec![Op::get(key)], ..held(from) });
        request.success = vec![convert::move_to(key, new), convert::get(key)];
        self.send_txn(Effect::Change, Some(new), request, left(end)).await
    }

    async fn ttl_of(&self, renewal: &Renewal, end: Instant) -> Result<Duration, StoreError> {
        let known = self.locked().get(&renewal.lease).copied();
        if let Some(ttl) = known {
            return Ok(ttl);
        }
        // An agent before this one began it, or the one that it was exchanged for.
        let gone = match self.lease_time_to_live(renewal.lease, left(end)).await {
            Err(error) if matches!(error.refusal(), Some(Refusal::LeaseNotFound(_))) => error,
            answered => return answered,
        };
        let result = self.transact(&Txn::of(vec![Op::get(&renewal.leader_key)]), left(end)).await?;
        match hangs_on(&result, renewal) {
            Some(other) => self.lease_time_to_live(other, left(end)).await,
            None => Err(gone),
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<LeaseId, Duration>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_txn(
        &self,
        effect: Effect,
        lease: Option<LeaseId>,
        request: TxnRequest,
        deadline: Duration,
    ) -> Result<TxnResult, StoreError> {
        let answer = self
            .caller
            .call(effect, lease, deadline, |route| {
                let request = route.request(request.clone());
                async move { Ok(KvClient::new(route.channel).txn(request).await?.into_inner()) }
            })
            .await?;
        convert::txn_result(answer)
    }
}

/// The conditions under which the baton is held.
fn held(renewal: &Renewal) -> Txn {
    let key = &renewal.leader_key;
    let compares =
        vec![Compare::created_at(key, renewal.epoch_create_revision), Compare::under_lease(key, renewal.lease)];
    Txn { compares, ..Txn::default() }
}

/// On which successor of the renewed lease the key hangs that was found, if it is that one's. A lease that somebody else put it under is none.
fn hangs_on(found: &TxnResult, renewal: &Renewal) -> Option<LeaseId> {
    let lease = found.responses.iter().find_map(|response| match response {
        OpResponse::Got(Some(pair)) if pair.create_revision == renewal.epoch_create_revision => pair.lease,
        _ => None,
    });
    lease.filter(|lease| (1..=SUCCESSORS).any(|number| successor(renewal.lease, number) == *lease))
}

/// One of the leases that this one may be exchanged for: far apart, and positive as etcd's are (mixed as `SplitMix64` does).
fn successor(lease: LeaseId, number: u64) -> LeaseId {
    let mut mixed = lease.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    LeaseId(((mixed ^ (mixed >> 31)) >> 1).max(1))
}

fn says_it_exists(error: &StoreError) -> bool {
    matches!(error.refusal(), Some(Refusal::Invalid(text)) if text.contains("lease already exists"))
}

fn not_holder(renewal: Renewal, found: &TxnResult) -> Refusal {
    let found = found.responses.iter().find_map(|response| match response {
        OpResponse::Got(pair) => pair.as_ref().map(|pair| pair.create_revision),
        OpResponse::Put | OpResponse::Deleted(_) => None,
    });
    let Renewal { lease, leader_key: key, epoch_create_revision: wanted } = renewal;
    Refusal::NotHolder { key, lease, wanted, found }
}

impl Store for EtcdStore {
    fn snapshot<'a>(&'a self, prefix: &'a str, deadline: Duration) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(self.range(prefix, deadline))
    }

    fn txn(&self, txn: Txn, deadline: Duration) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        Box::pin(async move { self.transact(&txn, deadline).await })
    }

    fn lease_grant(&self, ttl: Duration, deadline: Duration) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(self.grant(0, ttl, deadline))
    }

    fn lease_revoke(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        let number = lease_number(Some(id));
        self.locked().remove(&id);
        Box::pin(async move {
            self.caller
                .call(Effect::Change, Some(id), deadline, |route| async move {
                    let request = route.request(LeaseRevokeRequest { id: number });
                    Ok(LeaseClient::new(route.channel).lease_revoke(request).await?.into_inner())
                })
                .await
                .map(|_answer| ())
        })
    }

    fn lease_time_to_live(&self, id: LeaseId, deadline: Duration) -> BoxFuture<'_, Result<Duration, StoreError>> {
        let number = lease_number(Some(id));
        Box::pin(async move {
            let answer = self
                .caller
                .call(Effect::None, Some(id), deadline, |route| async move {
                    let request = route.request(LeaseTimeToLiveRequest { id: number, keys: false });
                    Ok(LeaseClient::new(route.channel).lease_time_to_live(request).await?.into_inner())
                })
                .await?;
            match answer.ttl {
                // What has run out is not always gone at once.
                ..=0 => Err(Refusal::LeaseNotFound(id).into()),
                _ => Ok(Duration::from_secs(unsigned(answer.granted_ttl))),
            }
        })
    }

    fn renew(&self, renewal: Renewal, deadline: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let end = Instant::now() + deadline;
            if self.releases.keep_alive_is_safe(&self.caller, deadline).await {
                let lease = renewal.lease;
                self.keep_and_check(renewal, end).await.map(|()| lease)
            } else {
                self.replace_lease(renewal, end).await
            }
        })
    }

    fn keep_session(&self, session: Renewal, deadline: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.keep_and_check(session, Instant::now() + deadline))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from_revision: Revision,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<Watch, StoreError>> {
        let (sender, watch) = Watch::channel();
        tokio::spawn(Watching::new(Arc::clone(&self.caller), prefix.to_owned(), from_revision, sender).run());
        Box::pin(async move { Ok(watch) })
    }

    fn health(&self, deadline: Duration) -> BoxFuture<'_, Result<Health, StoreError>> {
        Box::pin(async move {
            let end = Instant::now() + deadline;
            let status = self
                .caller
                .call(Effect::None, None, deadline, |route| async move {
                    let request = route.request(StatusRequest {});
                    Ok(MaintenanceClient::new(route.channel).status(request).await?.into_inner())
                })
                .await?;
            let left = end.saturating_duration_since(Instant::now());
            let members = self
                .caller
                .call(Effect::None, None, left, |route| async move {
                    let request = route.request(MemberListRequest { linearizable: false });
                    Ok(ClusterClient::new(route.channel).member_list(request).await?.into_inner())
                })
                .await?;
            let voters = members.members.into_iter().filter(|member| !member.is_learner);
            let address = |urls: Vec<String>| {
                let url = urls.into_iter().next().unwrap_or_default();
                url.split_once("://").map_or(url.clone(), |(_, address)| address.to_owned())
            };
            let voters = voters.map(|member| Voter { id: member.id, address: address(member.peer_ur_ls) }).collect();
            let member = status.header.as_ref().map(|header| header.member_id);
            Ok(Health {
                leader: (status.leader != 0).then_some(status.leader),
                is_leader: member.is_some_and(|member| member == status.leader),
                term: status.raft_term,
                voters,
                revision: convert::revision(status.header.as_ref())?,
                fatal: (!status.errors.is_empty()).then(|| status.errors.join("; ")),
            })
        })
    }
}
