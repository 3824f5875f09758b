use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pgbaton_api::View;
use pgbaton_sys::command::CommandError;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::command::EventCommand;
use crate::event::Event;
use crate::keeper::is_fresh;
use crate::outbox::{Outbox, OutboxError, OutboxSettings, Taken};
use crate::pauses::Pauses;
use crate::said::Said;
use crate::webhook::{PostError, Webhook, WebhookError, WebhookSettings};

/// How long a delivery that is under way may still take when this publisher is stopped; without its end the event is delivered again.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Who is told of events, and through which outbox.
#[derive(Clone)]
pub struct CourierSettings {
    /// What it is called in messages.
    pub title: String,
    /// Who publishes.
    pub publisher: String,
    /// The outbox.
    pub outbox: OutboxSettings,
    /// How long one attempt may take.
    pub within: Duration,
    /// How long an event is tried that is not taken; then it is dropped. None: for ever, and the others wait behind it.
    pub retry_for: Option<Duration>,
    /// Who is told.
    pub consumer: ConsumerSettings,
}

/// Who is told.
#[derive(Clone)]
pub enum ConsumerSettings {
    /// A server over HTTP.
    Webhook(WebhookSettings),
    /// A command.
    Command(EventCommand),
}

/// Why events are not delivered.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// The outbox cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The webhook cannot be used.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The webhook does not take it.
    #[error("event {sequence} ({event})")]
    Post {
        /// The event's number.
        sequence: u64,
        /// Its name.
        event: crate::event::EventName,
        /// Why.
        #[source]
        source: PostError,
    },
    /// The command did not succeed.
    #[error("event {sequence} ({event})")]
    Command {
        /// The event's number.
        sequence: u64,
        /// Its name.
        event: crate::event::EventName,
        /// Why.
        #[source]
        source: CommandError,
    },
    /// There is no thread to run the command on.
    #[error("event {sequence} ({event}): no thread can be started")]
    Thread {
        /// The event's number.
        sequence: u64,
        /// Its name.
        event: crate::event::EventName,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A thread has ended in the middle of it.
    #[error("the thread that did it has ended; this is a bug")]
    Ended,
}

enum Consumer {
    Webhook(Box<Webhook>),
    Command(EventCommand),
}

/// Delivers what is in an outbox, in order, each event until it is taken.
pub(crate) struct Courier {
    settings: CourierSettings,
    consumer: Arc<Consumer>,
    outbox: Arc<Mutex<Outbox>>,
    deliveries: Said,
    disk: Said,
    pauses: Pauses,
    again_at: Instant,
    /// Which event is tried again, and when it is given up.
    give_up: Option<(u64, Instant)>,
}

/// An event that is under way.
type Delivery = Pin<Box<dyn Future<Output = (Event, Result<(), CourierError>)> + Send>>;

impl Courier {
    /// Opens the outbox, which nobody else may have.
    pub(crate) async fn open(settings: &CourierSettings) -> Result<Self, CourierError> {
        let own = settings.clone();
        let opened = blocking(move || -> Result<_, CourierError> {
            let consumer = match &own.consumer {
                ConsumerSettings::Webhook(settings) => Consumer::Webhook(Box::new(Webhook::new(settings)?)),
                ConsumerSettings::Command(command) => Consumer::Command(command.clone()),
            };
            Ok((consumer, Outbox::open(&own.outbox, &own.publisher)?))
        });
        let (consumer, outbox) = opened.await??;
        Ok(Self {
            deliveries: Said::of(&settings.title),
            disk: Said::of(format!("{} (outbox)", settings.title)),
            settings: settings.clone(),
            consumer: Arc::new(consumer),
            outbox: Arc::new(Mutex::new(outbox)),
            pauses: Pauses::default(),
            again_at: Instant::now(),
            give_up: None,
        })
    }

    /// Runs until it is told to stop; what cannot be used is tried again.
    pub(crate) async fn run(settings: CourierSettings, views: watch::Receiver<View>, stop: CancellationToken) {
        let (mut said, mut pauses) = (Said::of(&settings.title), Pauses::default());
        loop {
            match Self::open(&settings).await {
                Ok(courier) => {
                    said.works();
                    return courier.serve(views, stop).await;
                }
                Err(error) => said.fails(&error),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(Instant::now() + pauses.next_pause()) => {}
            }
        }
    }

    async fn serve(mut self, mut views: watch::Receiver<View>, stop: CancellationToken) {
        let mut delivery: Option<Delivery> = None;
        let mut pauses = Pauses::default();
        loop {
            let view = views.borrow_and_update().clone();
            let look_at = self.take_and_tell(&view).await.map(|()| Instant::now() + pauses.next_pause());
            if look_at.is_none() {
                pauses = Pauses::default();
            }
            if delivery.is_none() && Instant::now() >= self.again_at {
                delivery = self.next_delivery();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = views.changed() => if changed.is_err() { break },
                (event, result) = under_way(&mut delivery) => {
                    delivery = None;
                    self.ended(&event, result).await;
                }
                () = sleep_until(self.again_at), if delivery.is_none() && self.waiting() > 0 => {}
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {}
            }
        }
        if delivery.is_some()
            && let Ok((event, result)) = timeout(STOP_WITHIN, under_way(&mut delivery)).await
        {
            self.ended(&event, result).await;
        }
    }

    /// Takes what a view brings; some: it did not work, and is to be tried again.
    async fn take_and_tell(&mut self, view: &View) -> Option<()> {
        match self.take(view).await {
            Ok(_) => {
                self.disk.works();
                None
            }
            Err(error) => {
                self.disk.fails(&error);
                Some(())
            }
        }
    }

    /// Puts what has happened by a view into the outbox; by one that is too old, nothing has.
    pub(crate) async fn take(&self, view: &View) -> Result<Taken, CourierError> {
        if !is_fresh(view) {
            return Ok(Taken::default());
        }
        let (outbox, view) = (Arc::clone(&self.outbox), view.clone());
        let at = Timestamp::now().to_string();
        let taken = blocking(move || locked(&outbox).take(&view, &at)).await??;
        if taken.dropped > 0 {
            let to = &self.settings.title;
            tracing::error!(%to, dropped = taken.dropped, "events are lost: more wait than the outbox may hold, the oldest were dropped");
        }
        Ok(taken)
    }

    /// How many events wait.
    pub(crate) fn waiting(&self) -> usize {
        locked(&self.outbox).waiting()
    }

    /// Begins to deliver the first event that waits.
    pub(crate) fn next_delivery(&self) -> Option<Delivery> {
        let event = locked(&self.outbox).first()?.clone();
        let (consumer, within) = (Arc::clone(&self.consumer), self.settings.within);
        Some(Box::pin(async move {
            let result = deliver(consumer, event.clone(), within).await;
            (event, result)
        }))
    }

    /// Takes note of the end of a delivery.
    async fn ended(&mut self, event: &Event, result: Result<(), CourierError>) {
        let to = &self.settings.title;
        match result {
            Ok(()) => {
                tracing::info!(%to, sequence = event.sequence, event = %event.event, member = %event.member, "delivered");
                self.deliveries.works();
            }
            Err(error) => {
                self.deliveries.fails(&error);
                let now = Instant::now();
                // The one before may have been dropped while it was tried.
                let begun = self.give_up.filter(|(sequence, _)| *sequence == event.sequence);
                let give_up = begun.or(self.settings.retry_for.map(|retry_for| (event.sequence, now + retry_for)));
                if give_up.is_none_or(|(_, at)| now < at) {
                    self.give_up = give_up;
                    self.again_at = now + self.pauses.next_pause();
                    return;
                }
                tracing::error!(%to, sequence = event.sequence, event = %event.event, member = %event.member, "an event is lost: it was not taken for too long");
            }
        }
        self.give_up = None;
        self.pauses = Pauses::default();
        self.again_at = Instant::now();
        match self.delivered(event.sequence).await {
            Ok(()) => self.disk.works(),
            Err(error) => self.disk.fails(&error),
        }
    }

    /// An event need not be delivered any more.
    pub(crate) async fn delivered(&self, sequence: u64) -> Result<(), CourierError> {
        let outbox = Arc::clone(&self.outbox);
        Ok(blocking(move || locked(&outbox).delivered(sequence)).await??)
    }
}

async fn under_way(delivery: &mut Option<Delivery>) -> (Event, Result<(), CourierError>) {
    match delivery {
        Some(delivery) => delivery.await,
        None => std::future::pending().await,
    }
}

async fn deliver(consumer: Arc<Consumer>, event: Event, within: Duration) -> Result<(), CourierError> {
    let (sequence, name) = (event.sequence, event.event);
    match consumer.as_ref() {
        Consumer::Webhook(webhook) => {
            let posted = webhook.post(&event, Timestamp::now().as_second(), within).await;
            posted.map_err(|source| CourierError::Post { sequence, event: name, source })
        }
        Consumer::Command(command) => {
            let command = command.clone();
            // A thread of its own and none of the runtime's: the end of this process does not wait for it.
            let (done, ended) = oneshot::channel();
            let work = move || {
                // Nobody waits for it any more when this process ends.
                drop(done.send(command.run(&event, within)));
            };
            let thread = std::thread::Builder::new().name("event".to_owned()).spawn(work);
            thread.map_err(|source| CourierError::Thread { sequence, event: name, source })?;
            let run = ended.await.map_err(|_| CourierError::Ended)?;
            run.map_err(|source| CourierError::Command { sequence, event: name, source })
        }
    }
}

/// Does what waits for a disk where nobody else waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CourierError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CourierError::Ended)
}

fn locked(outbox: &Mutex<Outbox>) -> std::sync::MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}
