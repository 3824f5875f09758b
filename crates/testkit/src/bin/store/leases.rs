//! What it costs the store that many clusters renew their leases.

use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::kv_client::KvClient;
use pgbaton_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use pgbaton_etcd_proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
    request_op,
};
use pgbaton_testkit::figures::processor_seconds;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::Outcome;
use crate::client::Client;
use crate::voters::Voters;

/// How many clusters share a connection here: with one each, the client would cost more than the store.
const CLUSTERS_PER_CONNECTION: usize = 10;

/// What each cluster's lease was granted, in seconds.
const TTL: i64 = 10;

/// The processor time of all voters, in percent of one processor, while each cluster's lease is renewed once a second as an agent does it:
/// kept alive, then its key looked at, linearizably.
pub(crate) async fn run(voters: &Voters, clusters: usize, time: Duration) -> Outcome<f64> {
    let mut running = Vec::new();
    let connections = clusters.div_ceil(CLUSTERS_PER_CONNECTION);
    for connection in 0..connections {
        let client = Client::new(&voters.endpoint(connection % voters.count()))?;
        let first = connection * CLUSTERS_PER_CONNECTION;
        let mine: Vec<usize> = (first..(first + CLUSTERS_PER_CONNECTION).min(clusters)).collect();
        let offset = Duration::from_secs(1).mul_f64(connection as f64 / connections as f64);
        running.push((client, mine, offset));
    }
    let mut tasks = tokio::task::JoinSet::new();
    let mut held = Vec::new();
    for (client, mine, offset) in running {
        let mut leases = Vec::new();
        for cluster in mine {
            leases.push((hold(&client, cluster).await?, key(cluster)));
        }
        held.push((client, leases, offset));
    }
    let begin = Instant::now();
    for (client, leases, offset) in held {
        tasks.spawn(renew(client, leases, begin + offset));
    }
    // waits: let the load settle before it is measured over a stretch of time
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = processor_seconds(&voters.processes())?;
    // waits: processor time is measured over a stretch of time
    tokio::time::sleep(time).await;
    let used = processor_seconds(&voters.processes())? - before;
    if let Some(ended) = tasks.try_join_next() {
        ended??;
        return Err("a client ended by itself".into());
    }
    tasks.shutdown().await;
    Ok(used / time.as_secs_f64() * 100.0)
}

fn key(cluster: usize) -> String {
    format!("/service/cluster{cluster}/leader")
}

async fn hold(client: &Client, cluster: usize) -> Outcome<i64> {
    let grant = LeaseGrantRequest { ttl: TTL, id: 0 };
    let lease = LeaseClient::new(client.channel.clone()).lease_grant(grant).await?.into_inner().id;
    let put = PutRequest { key: key(cluster).into_bytes(), value: b"h1".to_vec(), lease, ..PutRequest::default() };
    KvClient::new(client.channel.clone()).put(put).await?;
    Ok(lease)
}

async fn renew(client: Client, leases: Vec<(i64, String)>, begin: Instant) -> Outcome {
    let (requests, outgoing) = mpsc::channel(1);
    let (first, _) = leases.first().ok_or("a connection without a lease")?;
    // Ahead of the answer's begin: etcd does not answer a stream before its first request.
    requests.send(LeaseKeepAliveRequest { id: *first }).await?;
    let mut answers =
        LeaseClient::new(client.channel.clone()).lease_keep_alive(ReceiverStream::new(outgoing)).await?.into_inner();
    answers.message().await?;
    let step = Duration::from_secs(1) / u32::try_from(leases.len())?;
    let mut ticks = interval_at(begin, step);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (lease, key) in leases.iter().cycle() {
        ticks.tick().await;
        requests.send(LeaseKeepAliveRequest { id: *lease }).await?;
        let answer = answers.message().await?.ok_or("the stream of renewals ended")?;
        if answer.ttl == 0 {
            return Err(format!("the lease of {key} is gone").into());
        }
        if !KvClient::new(client.channel.clone()).txn(look(key, *lease)).await?.into_inner().succeeded {
            return Err(format!("{key} hangs on another lease").into());
        }
    }
    Ok(())
}

fn look(key: &str, lease: i64) -> TxnRequest {
    let key = key.as_bytes().to_vec();
    let range = || RequestOp {
        request: Some(request_op::Request::RequestRange(RangeRequest { key: key.clone(), ..RangeRequest::default() })),
    };
    TxnRequest {
        compare: vec![Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Lease.into(),
            key: key.clone(),
            target_union: Some(compare::TargetUnion::Lease(lease)),
            ..Compare::default()
        }],
        success: vec![range()],
        failure: vec![range()],
    }
}
