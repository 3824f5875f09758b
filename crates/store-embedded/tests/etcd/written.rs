use pgbaton_etcd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};

use crate::pair::{Call, Pair, Release, beside_each};

fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn puts(count: usize) -> Vec<RequestOp> {
    let op = |key| RequestOp { request: Some(request_op::Request::RequestPut(put(format!("k{key}"), "v"))) };
    (0..count).map(op).collect()
}

beside_each!(limits_are_where_etcd_has_them);

async fn limits_are_where_etcd_has_them(release: Release) {
    let pair = Pair::start(release).await;
    for count in [127, 128, 129] {
        pair.same(&Call::Txn(TxnRequest { success: puts(count), ..TxnRequest::default() })).await.ok();
    }
    let inner = |count| {
        let inner = TxnRequest { success: puts(count), ..TxnRequest::default() };
        let op = RequestOp { request: Some(request_op::Request::RequestTxn(inner)) };
        Call::Txn(TxnRequest { success: vec![op], ..TxnRequest::default() })
    };
    for count in [126, 127, 128] {
        pair.same(&inner(count)).await.ok();
    }
    for bytes in [1_000_000, 1_572_000, 1_573_000, 2_500_000] {
        let large = put("large", vec![b'x'; bytes]);
        pair.same(&Call::Put(large)).await.ok();
    }
    let all = RangeRequest { key: vec![0], range_end: vec![0], keys_only: true, ..RangeRequest::default() };
    pair.same(&Call::Range(all)).await.unwrap();
    pair.stop().await;
}

beside_each!(leases_are_as_long_as_etcd_makes_them);

async fn leases_are_as_long_as_etcd_makes_them(release: Release) {
    let pair = Pair::start(release).await;
    for (id, ttl) in [(1, 0), (2, -1), (3, 1), (4, 2), (5, 3), (6, 9_000_000_000), (7, 9_000_000_001), (4, 10)] {
        pair.same(&Call::Grant(LeaseGrantRequest { ttl, id })).await.ok();
        pair.same(&Call::TimeToLive(LeaseTimeToLiveRequest { id: 6, keys: true })).await.unwrap();
    }
    pair.same(&Call::Grant(LeaseGrantRequest { ttl: 60, id: 0 })).await.unwrap();
    pair.stop().await;
}
