use std::time::Duration;

use crate::bugs::Bugs;

/// What the operator wants of this member: the cluster's dynamic configuration merged with the member's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time to live asked for a new lease. What counts for a lease that exists is what it was granted with.
    pub ttl: Duration,
    /// Time between two ticks of the loop.
    pub loop_wait: Duration,
    /// How long a request to the store or the local server is tried.
    pub retry_timeout: Duration,
    /// K: what the guard may need from a deadline to the death of the last process (the guard says it).
    pub kill_time: Duration,
    /// A candidate further behind the last published position than this does not lead, in bytes.
    pub maximum_lag_on_failover: u64,
    /// How long the holder tries to bring its own server back before it hands over; zero: not at all.
    pub primary_start_timeout: Duration,
    /// Whether a diverged copy may be rewound with `pg_rewind`.
    pub use_pg_rewind: bool,
    /// Whether a copy that could not be rewound may be put away and cloned anew.
    pub remove_data_on_rewind_failure: bool,
    /// Whether a diverged copy that cannot be rewound may be put away and cloned anew.
    pub remove_data_on_diverged: bool,
    /// Maintenance mode: nothing is promoted, stopped or rebuilt by itself.
    pub paused: bool,
    /// This member never leads (tag `nofailover`).
    pub nofailover: bool,
    /// Breaks ties between equally advanced candidates, the higher first (tag `failover_priority`).
    pub failover_priority: u32,
    /// Whether this member's configuration says how to make a new cluster (section `bootstrap`).
    pub may_bootstrap: bool,
    /// How long poolers may take to hold their clients before a server is stopped for a handover; zero: they are not asked.
    pub pause_within: Duration,
    /// What becomes of a handover when one of them does not.
    pub without_pause: WithoutPause,
    /// Known bugs to put back; always empty outside the simulator.
    pub bugs: Bugs,
}

/// What becomes of a handover when a pooler does not hold its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutPause {
    /// It goes on: that pooler's clients get errors.
    #[default]
    Proceed,
    /// It is called off: nobody has noticed anything.
    CallOff,
}

impl Default for Settings {
    /// What a silent configuration gives.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            loop_wait: Duration::from_secs(1),
            retry_timeout: Duration::from_secs(4),
            kill_time: Duration::from_secs(1),
            maximum_lag_on_failover: 1 << 20,
            primary_start_timeout: Duration::from_secs(300),
            use_pg_rewind: false,
            remove_data_on_rewind_failure: false,
            remove_data_on_diverged: false,
            paused: false,
            nofailover: false,
            failover_priority: 1,
            may_bootstrap: true,
            pause_within: Duration::from_secs(5),
            without_pause: WithoutPause::Proceed,
            bugs: Bugs::default(),
        }
    }
}
