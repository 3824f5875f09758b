//! etcd's service `Watch`, served from what this node has applied.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::watch_create_request::FilterType;
use pgbaton_etcd_proto::etcdserverpb::watch_request::RequestUnion;
use pgbaton_etcd_proto::etcdserverpb::watch_server::Watch;
use pgbaton_etcd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use pgbaton_etcd_proto::mvccpb::{Event, KeyValue, event};
use pgbaton_store::{Change, KeyRange, RevisionError};
use pgbaton_types::Revision;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Face, OVERHEAD_BYTES, REQUEST_BYTES_MAX, wire};

/// The most revisions that are told in one answer, so that no answer is longer than a client takes: etcd's number.
const REVISIONS_MAX: usize = 1_000;

/// How often a watch that asked for it hears the revision while nothing happens: etcd's default.
const PROGRESS_EVERY: Duration = Duration::from_mins(10);

/// Answers that wait for a slow client. The history waits in the store, not here.
const ANSWERS_MAX: usize = 16;

/// The number that stands for no watch.
const NO_WATCH: i64 = -1;

/// One watch of a stream.
struct Watching {
    range: KeyRange,
    /// The next revision that is to be told.
    next: Revision,
    puts: bool,
    deletions: bool,
    before: bool,
    fragment: bool,
    /// When it is to hear the revision at the latest, if it asked for that.
    progress: Option<Instant>,
}

/// The watches of one client's stream.
struct Session {
    face: Face,
    watches: BTreeMap<i64, Watching>,
    next_id: i64,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
}

/// The client has gone.
struct Gone;

/// What there is to tell a watch.
enum News {
    Events {
        events: Vec<Event>,
        through: Revision,
    },
    /// It wanted what is forgotten.
    Compacted(Revision),
}

#[tonic::async_trait]
impl Watch for Face {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let session = Session { face: self.clone(), watches: BTreeMap::new(), next_id: 0, answers };
        // Ends with the stream, whichever side ends it.
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Session {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let mut revisions = self.face.node.machine.locked().revisions.subscribe();
        loop {
            let progress = self.watches.values().filter_map(|watching| watching.progress).min();
            let answers = self.answers.clone();
            let step = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(WatchRequest { request_union: Some(request) })) => self.take(request).await,
                    Ok(Some(WatchRequest { request_union: None })) => Ok(()),
                    Ok(None) | Err(_) => return,
                },
                changed = revisions.changed() => changed.map_err(|_| Gone),
                () = until(progress) => self.tell_progress().await,
                () = answers.closed() => return,
            };
            if step.is_err() || self.tell().await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, response: WatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(response)).await.map_err(|_| Gone)
    }

    fn revision(&self) -> Revision {
        self.face.node.machine.locked().machine.revision()
    }

    async fn take(&mut self, request: RequestUnion) -> Result<(), Gone> {
        match request {
            RequestUnion::CreateRequest(request) => self.create(request).await,
            RequestUnion::CancelRequest(request) => {
                if self.watches.remove(&request.watch_id).is_none() {
                    return Ok(());
                }
                let (header, watch_id) = (self.face.header(), request.watch_id);
                self.send(WatchResponse { header, watch_id, canceled: true, ..WatchResponse::default() }).await
            }
            RequestUnion::ProgressRequest(_) => {
                self.tell().await?;
                let (header, watch_id) = (self.face.header(), NO_WATCH);
                self.send(WatchResponse { header, watch_id, ..WatchResponse::default() }).await
            }
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), Gone> {
        let revision = self.revision();
        let header = self.face.header_at(revision);
        let created = WatchResponse { header, created: true, ..WatchResponse::default() };
        // A watch of the empty key is one of the least key, as in etcd.
        let key = if request.key.is_empty() { vec![0] } else { request.key.clone() };
        let range = KeyRange::of(key, request.range_end.clone());
        let refused = if matches!(&range, KeyRange::Between(from, to) if from >= to) {
            Some("mvcc: watcher range is empty")
        } else if self.watches.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream").filter(|_| request.watch_id != 0)
        } else {
            None
        };
        if let Some(reason) = refused {
            let (watch_id, cancel_reason) = (NO_WATCH, reason.to_owned());
            return self.send(WatchResponse { watch_id, canceled: true, cancel_reason, ..created }).await;
        }
        let id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let without = |filter: FilterType| request.filters().any(|given| given == filter);
        let from = u64::try_from(request.start_revision).unwrap_or(0);
        let watching = Watching {
            range,
            next: if from == 0 { Revision(revision.0 + 1) } else { Revision(from) },
            puts: !without(FilterType::Noput),
            deletions: !without(FilterType::Nodelete),
            before: request.prev_kv,
            fragment: request.fragment,
            progress: request.progress_notify.then(|| Instant::now() + PROGRESS_EVERY),
        };
        self.watches.insert(id, watching);
        self.send(WatchResponse { watch_id: id, ..created }).await
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Tells each watch what it has not heard.
    async fn tell(&mut self) -> Result<(), Gone> {
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            while let Some((news, revision)) = self.news(id) {
                let header = self.face.header_at(revision);
                let response = WatchResponse { header, watch_id: id, ..WatchResponse::default() };
                match news {
                    News::Compacted(compacted) => {
                        self.watches.remove(&id);
                        let compact_revision = wire::signed(compacted.0);
                        self.send(WatchResponse { canceled: true, compact_revision, ..response }).await?;
                    }
                    News::Events { events, through } => {
                        let Some(watching) = self.watches.get_mut(&id) else { break };
                        watching.next = Revision(through.0 + 1);
                        if let Some(progress) = &mut watching.progress {
                            *progress = Instant::now() + PROGRESS_EVERY;
                        }
                        let fragment = watching.fragment;
                        for part in parts(WatchResponse { events, ..response }, fragment) {
                            self.send(part).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What a watch has not heard, with the revision that this node is at. Moves the watch over what it does not want.
    fn news(&mut self, id: i64) -> Option<(News, Revision)> {
        let watching = self.watches.get_mut(&id)?;
        let applied = self.face.node.machine.locked();
        let keyspace = applied.machine.keyspace();
        let revision = keyspace.revision();
        if watching.next > revision {
            return None;
        }
        let changes = match keyspace.changes_from(&watching.range, watching.next) {
            Ok(changes) => changes,
            Err(RevisionError::Compacted(compacted) | RevisionError::Future(compacted)) => {
                return Some((News::Compacted(compacted), revision));
            }
        };
        let (mut through, mut revisions, mut events) = (Revision(0), 0, Vec::new());
        for change in changes {
            if !(if change.entry.is_some() { watching.puts } else { watching.deletions }) {
                continue;
            }
            if change.revision != through {
                revisions += 1;
                if revisions > REVISIONS_MAX {
                    return Some((News::Events { events, through }, revision));
                }
                through = change.revision;
            }
            events.push(event(&change, watching.before));
        }
        if events.is_empty() {
            watching.next = Revision(revision.0 + 1);
            return None;
        }
        Some((News::Events { events, through: revision }, revision))
    }

    async fn tell_progress(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let header = self.face.header();
        let mut due = Vec::new();
        for (id, watching) in &mut self.watches {
            if let Some(progress) = watching.progress.as_mut().filter(|progress| **progress <= now) {
                *progress = now + PROGRESS_EVERY;
                due.push(*id);
            }
        }
        for watch_id in due {
            self.send(WatchResponse { header, watch_id, ..WatchResponse::default() }).await?;
        }
        Ok(())
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn event(change: &Change<'_>, before: bool) -> Event {
    let prev_kv = change.before.filter(|_| before).map(|entry| wire::key_value(change.key.to_vec(), entry.clone()));
    match change.entry {
        Some(entry) => {
            let kv = wire::key_value(change.key.to_vec(), entry.clone());
            Event { r#type: event::EventType::Put.into(), kv: Some(kv), prev_kv }
        }
        None => {
            let mod_revision = wire::signed(change.revision.0);
            let kv = KeyValue { key: change.key.to_vec(), mod_revision, ..KeyValue::default() };
            Event { r#type: event::EventType::Delete.into(), kv: Some(kv), prev_kv }
        }
    }
}

/// An answer in parts of which none is longer than a client takes, if it asked for that.
fn parts(mut response: WatchResponse, fragment: bool) -> Vec<WatchResponse> {
    let bytes_max = REQUEST_BYTES_MAX + OVERHEAD_BYTES;
    if !fragment || response.encoded_len() < bytes_max {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    let mut parts = Vec::new();
    let mut part = response.clone();
    for event in events {
        if !part.events.is_empty() && part.encoded_len() + event.encoded_len() >= bytes_max {
            part.fragment = true;
            parts.push(std::mem::replace(&mut part, response.clone()));
        }
        part.events.push(event);
    }
    parts.push(part);
    parts
}
