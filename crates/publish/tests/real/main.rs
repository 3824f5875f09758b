//! Publishing with the real programs: `ZooKeeper`, etcd, HTTP servers, shells.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod hook;
mod kill;
mod records;
mod webhooks;

use std::path::Path;
use std::time::Duration;

use pgbaton_api::{Baton, ServerAt, View};
use pgbaton_publish::{ConsumerSettings, CourierSettings, OutboxSettings, Settings};
use pgbaton_sys::clock::boottime;
use pgbaton_types::{BootTime, Epoch, Revision, TimelineId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest time for one request.
const WITHIN: Duration = Duration::from_secs(5);

/// A view of a cluster with this primary, as of now.
fn view(epoch: u64, revision: u64, primary: &str) -> View {
    let server = ServerAt {
        name: primary.parse().unwrap(),
        host: "10.0.0.1".to_owned(),
        port: 5432,
        api: None,
        timeline: Some(TimelineId(3)),
        lag: Some(0),
        streaming: false,
        tags: serde_json::Map::new(),
    };
    let baton = Baton {
        scope: "demo".to_owned(),
        epoch: Some(Epoch(epoch)),
        leader: Some(server.name.clone()),
        primary: Some(server),
        ..Baton::default()
    };
    View { baton, as_of: Some(BootTime(boottime())), revision: Revision(revision) }
}

/// A publisher that runs until it is dropped.
struct Running {
    views: watch::Sender<View>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings, first: View) -> Self {
        let (views, newest) = watch::channel(first);
        let stop = CancellationToken::new();
        Self { views, task: tokio::spawn(pgbaton_publish::run(settings, newest, stop.clone())), stop }
    }

    fn show(&self, view: View) {
        self.views.send_replace(view);
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn courier(outbox: &Path, consumer: ConsumerSettings) -> CourierSettings {
    CourierSettings {
        title: "a consumer".to_owned(),
        publisher: "me".to_owned(),
        outbox: OutboxSettings {
            directory: outbox.to_owned(),
            name: "events".to_owned(),
            only: None,
            member: None,
            events_max: 1000,
        },
        within: WITHIN,
        retry_for: None,
        consumer,
    }
}
