use std::sync::Arc;

use tokio::sync::watch;

use crate::counters::Counters;
use crate::settings::PortSettings;

/// One port, as a session began with it: a reload makes another one of the same counters.
#[derive(Debug)]
pub struct Port {
    /// How it is served.
    pub settings: PortSettings,
    /// What it has done.
    pub counters: Arc<Counters>,
    /// A reload has taken it away, and the time of its sessions is over.
    over: Arc<watch::Sender<bool>>,
}

impl Port {
    /// A port that was not there before.
    pub(crate) fn new(settings: PortSettings) -> Self {
        Self { settings, counters: Arc::default(), over: Arc::new(watch::Sender::new(false)) }
    }

    /// The same port, served in another way.
    pub(crate) fn with(&self, settings: PortSettings) -> Self {
        Self { settings, counters: Arc::clone(&self.counters), over: Arc::clone(&self.over) }
    }

    /// Whether it is the same one, as it was served at another time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters, &other.counters)
    }

    /// The time of its sessions is over: none begins any more.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
    }

    /// Waits until the time of its sessions is over.
    pub(crate) async fn over(&self) {
        // It cannot fail: whoever tells it is here.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}
