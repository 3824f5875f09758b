//! Where the primary is, told to others: records in `ZooKeeper` or an etcd, events to webhooks and commands.
//!
//! ```text
//!   views of the cluster ──┬─► Keeper ── Record ── compare and set ──► ZooKeeper node, etcd key; a heartbeat beside it
//!                          └─► Courier ── Seen: what is the difference? ── Event ── Outbox ──► webhook, command
//! ```
//!
//! Each target and each consumer has a task of its own: none waits for another, and nothing waits for them. A record is written only over an
//! older one ([`Record`]: epoch, then revision of the store), whoever writes. An event is on disk before it is delivered, and until it is
//! taken.
//!
//! Who is the primary comes from outside, as a [`View`]; nothing here reads the cluster's store.

mod command;
mod courier;
mod etcd;
mod event;
mod keeper;
mod outbox;
mod pauses;
mod record;
mod said;
mod seen;
mod target;
mod webhook;
mod zookeeper;

use pgbaton_api::View;
use pgbaton_types::chain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use command::EventCommand;
pub use courier::{ConsumerSettings, CourierError, CourierSettings};
pub use event::{Event, EventName};
pub use outbox::{OutboxError, OutboxSettings};
pub use record::{RECORD_VERSION, Record, Server};
pub use target::{Outcome, Place, TargetError, TargetSettings};
pub use webhook::{PostError, Secret, WebhookError, WebhookSettings};

use courier::Courier;
use keeper::Keeper;
use target::Target;

/// All that is published.
#[derive(Clone, Default)]
pub struct Settings {
    /// Records.
    pub targets: Vec<TargetSettings>,
    /// Events.
    pub couriers: Vec<CourierSettings>,
}

/// Publishes whatever the views bring until it is told to stop. What does not work is said once, tried again, and keeps nothing else up. Must
/// be called on a tokio runtime.
pub async fn run(settings: Settings, views: watch::Receiver<View>, stop: CancellationToken) {
    let mut running = JoinSet::new();
    for target in settings.targets {
        let title = target.title.clone();
        match Keeper::new(target) {
            Ok(keeper) => {
                running.spawn(keeper.run(views.clone(), stop.clone()));
            }
            Err(error) => tracing::error!(to = %title, error = %chain(&error), "nothing is published there"),
        }
    }
    for courier in settings.couriers {
        running.spawn(Courier::run(courier, views.clone(), stop.clone()));
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a publisher did not end in order; this is a bug");
        }
    }
}

/// What came of one target or consumer.
#[derive(Debug)]
pub struct Report {
    /// What it is called.
    pub title: String,
    /// What came of it.
    pub result: Result<Done, Box<dyn std::error::Error + Send + Sync>>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// A record.
    Record(Outcome),
    /// So many events were delivered; none waits.
    Delivered(usize),
}

/// Publishes one view, without a heartbeat: all at once, each for itself. An event that is not taken ends the deliveries to that consumer; those that
/// wait stay in its outbox.
pub async fn once(settings: Settings, view: View) -> Vec<Report> {
    let mut running = JoinSet::new();
    let count = settings.targets.len();
    for (number, target) in settings.targets.into_iter().enumerate() {
        let view = view.clone();
        running.spawn(async move { (number, target.title.clone(), publish(&target, &view).await) });
    }
    for (number, courier) in settings.couriers.into_iter().enumerate() {
        let view = view.clone();
        running.spawn(async move { (count + number, courier.title.clone(), deliver(&courier, &view).await) });
    }
    let mut reports = running.join_all().await;
    reports.sort_by_key(|(number, ..)| *number);
    reports.into_iter().map(|(_, title, result)| Report { title, result }).collect()
}

async fn publish(settings: &TargetSettings, view: &View) -> Result<Done, Box<dyn std::error::Error + Send + Sync>> {
    let mut target = Target::new(settings)?;
    let record = Record::of(view, None, &settings.publisher);
    let outcome = target.publish(&record).await;
    target.close().await;
    Ok(Done::Record(outcome?))
}

async fn deliver(settings: &CourierSettings, view: &View) -> Result<Done, Box<dyn std::error::Error + Send + Sync>> {
    let courier = Courier::open(settings).await?;
    courier.take(view).await?;
    let mut delivered = 0;
    while let Some(delivery) = courier.next_delivery() {
        let (event, result) = delivery.await;
        result?;
        courier.delivered(event.sequence).await?;
        delivered += 1;
    }
    Ok(Done::Delivered(delivered))
}
