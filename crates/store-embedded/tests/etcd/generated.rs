use std::collections::BTreeMap;

use pgbaton_etcd_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::pair::{Call, Pair, Release, beside_each};

/// Calls of one run: some seconds.
const CALLS: usize = 4_000;

/// Makes calls that have to do with each other: few keys, few leases, revisions near the present one.
pub(crate) struct Calls {
    random: StdRng,
    /// About where the stores are: each call may have moved them by one.
    revision: i64,
    compacts: bool,
}

impl Calls {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), revision: 1, compacts: true }
    }

    pub(crate) fn without_compaction(seed: u64) -> Self {
        Self { compacts: false, ..Self::new(seed) }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.random).unwrap().clone()
    }

    fn key(&mut self) -> Vec<u8> {
        if self.one_in(40) {
            return Vec::new();
        }
        self.pick(&["a", "b", "c", "ca", "cb", "\0", "\u{ff}"]).as_bytes().to_vec()
    }

    fn end(&mut self) -> Vec<u8> {
        if self.one_in(2) {
            return Vec::new();
        }
        self.pick(&["\0", "b", "c", "d", "a", "cc", "\u{ff}"]).as_bytes().to_vec()
    }

    fn lease(&mut self) -> i64 {
        self.pick(&[0, 0, 0, 1, 2, 3, -4, i64::MAX])
    }

    fn near(&mut self) -> i64 {
        let back = self.random.random_range(-3..12);
        self.pick(&[0, 0, 0, 1, -1, self.revision - back, self.revision - back])
    }

    fn range(&mut self) -> RangeRequest {
        RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: self.pick(&[0, 0, 0, 1, 2, -1]),
            revision: self.near(),
            sort_order: self.random.random_range(0..3),
            sort_target: self.random.random_range(0..5),
            serializable: self.one_in(3),
            keys_only: self.one_in(5),
            count_only: self.one_in(8),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    fn bound(&mut self) -> i64 {
        if self.one_in(6) { self.near() } else { 0 }
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.one_in(8), self.one_in(8));
        let value = if ignore_value && !self.one_in(10) { "" } else { self.pick(&["", "x", "y", "z"]) };
        let lease = if ignore_lease && !self.one_in(10) { 0 } else { self.lease() };
        let value = value.as_bytes().to_vec();
        PutRequest { key: self.key(), value, lease, prev_kv: self.one_in(2), ignore_value, ignore_lease }
    }

    fn delete_range(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.one_in(2) }
    }

    fn comparison(&mut self) -> Compare {
        let union = match self.random.random_range(0..6) {
            0 => Some(compare::TargetUnion::Version(self.random.random_range(-1..4))),
            1 => Some(compare::TargetUnion::CreateRevision(self.near())),
            2 => Some(compare::TargetUnion::ModRevision(self.near())),
            3 => Some(compare::TargetUnion::Value(self.pick(&["", "x", "y"]).as_bytes().to_vec())),
            4 => Some(compare::TargetUnion::Lease(self.lease())),
            _ => None,
        };
        let fitting = match union {
            Some(compare::TargetUnion::Version(_)) => 0,
            Some(compare::TargetUnion::CreateRevision(_)) => 1,
            Some(compare::TargetUnion::ModRevision(_)) => 2,
            Some(compare::TargetUnion::Value(_)) => 3,
            Some(compare::TargetUnion::Lease(_)) => 4,
            None => self.random.random_range(0..5),
        };
        let target = if self.one_in(10) { self.random.random_range(0..5) } else { fitting };
        let range_end = if self.one_in(3) { self.end() } else { Vec::new() };
        Compare { result: self.random.random_range(0..4), target, key: self.key(), range_end, target_union: union }
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.random.random_range(0..8) {
            0..=2 => request_op::Request::RequestPut(self.put()),
            3..=4 => request_op::Request::RequestRange(self.range()),
            5..=6 => request_op::Request::RequestDeleteRange(self.delete_range()),
            _ if depth < 2 => request_op::Request::RequestTxn(self.txn(depth + 1)),
            _ => return RequestOp { request: None },
        };
        RequestOp { request: Some(request) }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let lengths = [0, 1, 1, 2, 3];
        let (compares, success, failure) = (self.pick(&lengths), self.pick(&lengths), self.pick(&lengths));
        TxnRequest {
            compare: (0..compares).map(|_| self.comparison()).collect(),
            success: (0..success).map(|_| self.op(depth)).collect(),
            failure: (0..failure).map(|_| self.op(depth)).collect(),
        }
    }

    pub(crate) fn next(&mut self) -> Call {
        let id = self.pick(&[1, 2, 3, -4, 7]);
        match self.random.random_range(0..100) {
            0..=24 => Call::Range(self.range()),
            25..=49 => Call::Put(self.put()),
            50..=59 => Call::DeleteRange(self.delete_range()),
            60..=84 => Call::Txn(self.txn(0)),
            85..=86 if self.compacts => {
                Call::Compact(CompactionRequest { revision: self.near(), physical: self.one_in(2) })
            }
            85..=86 => Call::Leases,
            // So long that none ends by itself; too short ones are granted longer, and too long ones not.
            87..=90 => {
                Call::Grant(LeaseGrantRequest { ttl: self.pick(&[1_000, 2_000, 9_000_000_000, 9_000_000_001]), id })
            }
            91..=92 => Call::Revoke(LeaseRevokeRequest { id }),
            93..=94 => Call::KeepAlive(LeaseKeepAliveRequest { id }),
            95..=97 => Call::TimeToLive(LeaseTimeToLiveRequest { id, keys: self.one_in(2) }),
            _ => Call::Leases,
        }
    }

    /// Notes the revision that an answer names.
    pub(crate) fn follow(&mut self, answer: &str) {
        let named = answer.split("revision: ").nth(1).and_then(|rest| rest.split([',', ' ']).next()?.parse().ok());
        self.revision = self.revision.max(named.unwrap_or(0));
    }
}

beside_each!(generated_calls_get_the_same_answers);

async fn generated_calls_get_the_same_answers(release: Release) {
    let pair = Pair::start(release).await;
    let mut calls = Calls::new(1);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..CALLS {
        let answer = pair.same(&calls.next()).await;
        match answer {
            Ok(text) => {
                calls.follow(&text);
                *kinds.entry(text.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
            }
            Err((code, words)) => *kinds.entry(format!("{code:?} {words}")).or_default() += 1,
        }
    }
    // A generator that only makes mistakes would show nothing.
    for kind in ["RangeResponse", "PutResponse", "DeleteRangeResponse", "TxnResponse", "CompactionResponse"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 10), "{kind} among {kinds:#?}");
    }
    assert!(kinds.len() > 12, "{kinds:#?}");
    pair.stop().await;
}
