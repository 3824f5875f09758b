use std::sync::Arc;
use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::watch_client::WatchClient;
use pgbaton_etcd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request};
use pgbaton_etcd_proto::mvccpb;
use pgbaton_store::{Event, EventKind, WatchItem, WatchSender};
use pgbaton_types::Revision;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::call::{Caller, Route};
use crate::convert::{key_value, range_end, range_start, signed, unsigned};
use crate::endpoints::EndpointLeft;
use crate::judge::{Verdict, judge, words};

/// The pause before a watch that ended is begun again with the next endpoint.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How one stream of changes ended.
enum Ended {
    /// The watcher has gone, or was told that it is over.
    Over,
    /// The stream failed: it goes on elsewhere.
    Failed(Status),
}

/// A watch that outlives its connections: it goes on where it was, until the store does not know the changes any more.
pub(crate) struct Watching {
    caller: Arc<Caller>,
    prefix: String,
    /// The revision of the next change that is wanted.
    next: Revision,
    sender: WatchSender,
    /// Parts of a revision that came without its end.
    parts: Vec<mvccpb::Event>,
}

impl Watching {
    pub(crate) fn new(caller: Arc<Caller>, prefix: String, next: Revision, sender: WatchSender) -> Self {
        Self { caller, prefix, next, sender, parts: Vec::new() }
    }

    /// Runs until the watcher goes or cannot be served any more.
    pub(crate) async fn run(mut self) {
        while !self.sender.is_closed() {
            let (number, status) = match self.caller.long_route().await {
                Ok((number, route)) => {
                    let client = WatchClient::new(route.channel.clone());
                    let left = self.caller.endpoints().left(number);
                    match self.follow(client, &route, left).await {
                        Ended::Over => return,
                        Ended::Failed(status) => (number, status),
                    }
                }
                Err(failed) => failed,
            };
            tracing::debug!(prefix = self.prefix, problem = words(&status), "a watch goes on with the next endpoint");
            self.parts.clear();
            if matches!(judge(&status), Verdict::Token) {
                self.caller.log_in_again();
            } else {
                self.caller.endpoints().failed(number);
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn follow(
        &mut self,
        mut client: WatchClient<tonic::transport::Channel>,
        route: &Route,
        mut left: EndpointLeft,
    ) -> Ended {
        let create = WatchCreateRequest {
            key: range_start(&self.prefix),
            range_end: range_end(&self.prefix),
            start_revision: signed(self.next),
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open as long as this end does: closing it would end the watch.
        let (requests, outgoing) = mpsc::channel(1);
        if requests.send(create).await.is_err() {
            return Ended::Failed(Status::internal("the stream of requests ended before it began"));
        }
        let begun = tokio::select! {
            begun = client.watch(route.request(ReceiverStream::new(outgoing))) => begun,
            () = left.wait() => Err(Status::unavailable("calls to this endpoint fail")),
        };
        let mut stream = match begun {
            Ok(response) => response.into_inner(),
            Err(status) => return Ended::Failed(status),
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.sender.closed() => return Ended::Over,
                () = left.wait() => return Ended::Failed(Status::unavailable("calls to this endpoint fail")),
            };
            match message {
                Ok(Some(response)) => {
                    if let Some(ended) = self.take(response) {
                        return ended;
                    }
                }
                Ok(None) => return Ended::Failed(Status::unavailable("the stream of changes ended")),
                Err(status) => return Ended::Failed(status),
            }
        }
    }

    fn take(&mut self, response: WatchResponse) -> Option<Ended> {
        if response.compact_revision > 0 {
            self.sender.send(WatchItem::Compacted { revision: Revision(unsigned(response.compact_revision)) });
            return Some(Ended::Over);
        }
        if response.canceled {
            // Who must log in again is told so in words only.
            let reason = response.cancel_reason;
            let token = reason.contains("token") || reason.contains("Unauthenticated");
            return Some(Ended::Failed(if token {
                Status::unauthenticated(reason)
            } else {
                Status::unavailable(reason)
            }));
        }
        self.parts.extend(response.events);
        if response.fragment || self.parts.is_empty() {
            return None;
        }
        let parts = std::mem::take(&mut self.parts);
        let last = parts.iter().filter_map(|event| event.kv.as_ref()).map(|pair| pair.mod_revision).max();
        let revision = Revision(unsigned(last.unwrap_or(0)));
        let events = parts.into_iter().filter_map(event).collect();
        self.next = self.next.max(Revision(revision.0 + 1));
        let kept_up = self.sender.send(WatchItem::Batch { revision, events });
        (!kept_up).then_some(Ended::Over)
    }
}

fn event(event: mvccpb::Event) -> Option<Event> {
    let deleted = event.r#type() == mvccpb::event::EventType::Delete;
    let pair = key_value(event.kv?)?;
    let revision = pair.mod_revision;
    let kind = if deleted { EventKind::Delete { key: pair.key } } else { EventKind::Put(pair) };
    Some(Event { revision, kind })
}
