use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::watch_client::WatchClient;
use pgbaton_etcd_proto::etcdserverpb::watch_request::RequestUnion;
use pgbaton_etcd_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::generated::Calls;
use crate::pair::{Pair, Release, beside_each, own};

/// Far above what an answer takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Calls before and while it is watched.
const CALLS: usize = 600;

/// A stream of watches.
struct Watches {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watches {
    /// etcd says nothing before the first request.
    async fn open(channel: &Channel, first: &[RequestUnion]) -> Self {
        let (requests, stream) = mpsc::channel(16);
        for request in first {
            requests.send(WatchRequest { request_union: Some(request.clone()) }).await.unwrap();
        }
        let answers = WatchClient::new(channel.clone()).watch(ReceiverStream::new(stream)).await.unwrap();
        Self { requests, answers: answers.into_inner() }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        let mut answer = tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap().unwrap().unwrap();
        own(&mut answer.header);
        answer
    }

    /// Everything up to the answer to a request for progress: in how many answers the events come is each store's own.
    async fn everything(&mut self, through: i64) -> Vec<String> {
        let mut told = Vec::new();
        let mut reached = 0;
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        loop {
            let answer = self.next().await;
            if answer.watch_id == -1 && !answer.created {
                reached = answer.header.map_or(0, |header| header.revision).max(reached);
                if reached >= through {
                    return told;
                }
                self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
                continue;
            }
            if answer.events.is_empty() {
                told.push(format!("{:?}", WatchResponse { header: None, ..answer }));
            } else {
                told.extend(answer.events.iter().map(|event| format!("{} {event:?}", answer.watch_id)));
            }
        }
    }
}

async fn run(pair: &Pair, calls: &mut Calls) -> i64 {
    let mut revision = 0;
    for _ in 0..CALLS {
        if let Ok(text) = pair.same(&calls.next()).await {
            calls.follow(&text);
            revision = calls.revision();
        }
    }
    revision
}

beside_each!(watches_tell_the_same_changes_in_the_same_order);

async fn watches_tell_the_same_changes_in_the_same_order(release: Release) {
    let pair = Pair::start(release).await;
    let mut calls = Calls::without_compaction(2);
    let present = run(&pair, &mut calls).await;
    let range = |key: &str, end: &str, start_revision, filters: &[i32], prev_kv| {
        RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
            start_revision,
            filters: filters.to_vec(),
            prev_kv,
            ..WatchCreateRequest::default()
        })
    };
    let watches = [
        range("\0", "\0", 1, &[], false),
        range("a", "", present / 2, &[], true),
        range("a", "c", 0, &[0], true),
        range("c", "d", present + 20, &[1], false),
        range("b", "a", 0, &[], false),
        range("", "", 0, &[], false),
    ];
    let (mut etcd, mut ours) = (Watches::open(&pair.etcd, &watches).await, Watches::open(&pair.ours, &watches).await);
    let through = run(&pair, &mut calls).await;
    for request in [1, 1, 77].map(|watch_id| RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) {
        etcd.ask(request.clone()).await;
        ours.ask(request).await;
    }
    let sorted = |mut told: Vec<String>| {
        // The order between watches is each store's own; within one it is not.
        told.sort_by_key(|line| line.split(' ').next().unwrap_or_default().to_owned());
        told
    };
    let (expected, found) = (sorted(etcd.everything(through).await), sorted(ours.everything(through).await));
    assert!(expected.len() > CALLS / 4, "only {} changes", expected.len());
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(found, expected, "line {index}: ours, and etcd's");
    }
    assert_eq!(found.len(), expected.len());
    pair.stop().await;
}
