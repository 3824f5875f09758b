use std::sync::Arc;

use crate::counters::Counters;
use crate::settings::PortSettings;

/// One port, as a session began with it: a reload makes another one of the same counters.
#[derive(Debug)]
pub struct Port {
    /// How it is served.
    pub settings: PortSettings,
    /// What it has done.
    pub counters: Arc<Counters>,
}
