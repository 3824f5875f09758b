use std::time::Duration;

use pgbaton_api::View;
use pgbaton_sys::clock::boottime;
use pgbaton_types::{BootTime, Epoch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::pauses::Pauses;
use crate::record::Record;
use crate::said::Said;
use crate::target::{Outcome, Target, TargetError, TargetSettings};

/// How old a view may be by which something is published, as with everything else that follows the cluster.
pub(crate) const VIEW_AGE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at the record even if nothing has changed: somebody may have removed it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the end of the heartbeat may take when this publisher is stopped; otherwise it runs out by itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Keeps a record as the cluster is, and a heartbeat beside it, until it is told to stop.
pub(crate) struct Keeper {
    settings: TargetSettings,
    target: Target,
    /// The highest epoch that was seen.
    reign: Option<Epoch>,
    /// PostgreSQL's system identifier in that reign.
    system_id: Option<String>,
    /// The record that is there for all that is known.
    there: Option<Record>,
    outcome: Option<Outcome>,
    /// When it is looked at the record again, and when something is said of this publisher.
    look_at: Instant,
    beat_at: Instant,
    records: Attempts,
    beats: Attempts,
}

/// What is tried again and again.
#[derive(Debug)]
struct Attempts {
    said: Said,
    pauses: Pauses,
    again_at: Instant,
}

impl Keeper {
    /// # Errors
    /// When the settings make no sense.
    pub(crate) fn new(settings: TargetSettings) -> Result<Self, TargetError> {
        let now = Instant::now();
        let attempts = |what: &str| Attempts {
            said: Said::of(format!("{}{what}", settings.title)),
            pauses: Pauses::default(),
            again_at: now,
        };
        Ok(Self {
            target: Target::new(&settings)?,
            reign: None,
            system_id: None,
            there: None,
            outcome: None,
            look_at: now,
            beat_at: now,
            records: attempts(""),
            beats: attempts(" (heartbeat)"),
            settings,
        })
    }

    pub(crate) async fn run(mut self, mut views: watch::Receiver<View>, stop: CancellationToken) {
        loop {
            let view = views.borrow_and_update().clone();
            // A request that is given up leaves nothing behind but what it may have done.
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.round(&view) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = views.changed() => if changed.is_err() { break },
                () = sleep_until(self.next()) => {}
            }
        }
        if timeout(CLOSE_WITHIN, self.target.close()).await.is_err() {
            tracing::debug!(to = %self.settings.title, "the heartbeat runs out by itself");
        }
    }

    /// When there is something to do although nothing changes.
    fn next(&self) -> Instant {
        self.look_at.max(self.records.again_at).min(self.beat_at.max(self.beats.again_at))
    }

    /// What is due now. The record first: others wait for it.
    async fn round(&mut self, view: &View) {
        let now = Instant::now();
        if let Some(record) = self.due(view, now) {
            let result = self.target.publish(&record).await;
            self.published(record, &result);
            self.records.tell(result);
        }
        if self.beat_at.max(self.beats.again_at) <= now {
            let result = self.target.beat().await;
            self.beat_at = Instant::now() + self.target.beat_interval();
            self.beats.tell(result);
        }
    }

    /// The record that is to be published now, if there is one.
    fn due(&mut self, view: &View, now: Instant) -> Option<Record> {
        if now < self.records.again_at {
            return None;
        }
        if !is_fresh(view) {
            // A view that may be acted by wakes this up.
            self.look_at = now + LOOK_INTERVAL;
            return None;
        }
        let system_id = view.baton.system_id.clone().or(self.system_id.clone());
        if self.system_id.is_some() && self.system_id != system_id {
            tracing::warn!(to = %self.settings.title, "the cluster was made anew, or upgraded: what was seen of it before does not count");
            (self.reign, self.there) = (None, None);
        }
        self.system_id = system_id;
        if view.baton.epoch.is_some_and(|epoch| Some(epoch) < self.reign) {
            self.look_at = now + LOOK_INTERVAL;
            return None;
        }
        self.reign = self.reign.max(view.baton.epoch);
        let record = Record::of(view, self.reign, &self.settings.publisher);
        let known = self.there.as_ref().is_some_and(|there| there.says_the_same(&record));
        (!known || now >= self.look_at).then_some(record)
    }

    fn published(&mut self, record: Record, result: &Result<Outcome, TargetError>) {
        let Ok(outcome) = result else {
            self.there = None;
            self.look_at = Instant::now();
            return;
        };
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let (to, epoch) = (&self.settings.title, record.epoch.map(|epoch| epoch.0));
        let primary = record.primary.as_ref().map(|primary| primary.name.as_str());
        match outcome {
            Outcome::Written => tracing::info!(%to, epoch, primary, "published"),
            Outcome::Older if self.outcome != Some(Outcome::Older) => {
                tracing::warn!(%to, epoch, primary, "not published: the record there is newer");
            }
            Outcome::Older | Outcome::Unchanged => {}
        }
        self.outcome = Some(*outcome);
        self.there = Some(record);
    }
}

impl Attempts {
    fn tell<T>(&mut self, result: Result<T, TargetError>) {
        match result {
            Ok(_) => {
                self.said.works();
                self.pauses = Pauses::default();
                self.again_at = Instant::now();
            }
            Err(error) => {
                self.said.fails(&error);
                self.again_at = Instant::now() + self.pauses.next_pause();
            }
        }
    }
}

/// Whether something may be done by this view.
pub(crate) fn is_fresh(view: &View) -> bool {
    let now = BootTime(boottime());
    view.as_of.is_some_and(|as_of| !now.reached(as_of + VIEW_AGE_MAX))
}
