use std::time::Duration;

use pgbaton_core::lease::acquire_time;
use pgbaton_core::{Bug, Bugs, Settings, WithoutPause};

use crate::faults::FaultKind;
use crate::operator_model::OperatorKind;
use crate::rng::Rng;
use crate::time::{MILLISECOND, SECOND, Time, nanos};

/// What is drawn before a run begins: the cluster and which faults it may meet. Each fault and each operator is off in
/// half of the runs: what is left out lets the rest get further (swarm testing).
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// How many members there are.
    pub(crate) members: usize,
    /// Each member's settings at the beginning.
    pub(crate) settings: Vec<Settings>,
    /// Length of the phase with faults.
    pub(crate) safety_phase: Time,
    /// Mean time between two faults.
    pub(crate) fault_interval: Time,
    /// Mean time between two acts of an operator; none: there is no operator.
    pub(crate) operator_interval: Option<Time>,
    /// The faults that happen.
    pub(crate) faults: Vec<FaultKind>,
    /// What operators do.
    pub(crate) operators: Vec<OperatorKind>,
    /// Mean time between two writes.
    pub(crate) write_interval: Time,
    /// The largest write, in bytes.
    pub(crate) write_bytes: u64,
    /// The longest that a crash recovery takes.
    pub(crate) recovery_longest: Time,
    /// The longest that a promotion takes.
    pub(crate) promotion_longest: Time,
    /// The longest until a promoted server has completed its first checkpoint.
    pub(crate) checkpoint_longest: Time,
    /// The longest that a base backup or a rewind takes.
    pub(crate) copy_longest: Time,
    /// The longest that the postmaster stays after its control file says "shut down".
    pub(crate) exit_longest: Time,
    /// Longest additional delay of each message to and from the store, of a store that is slow but well.
    pub(crate) store_slowness: Time,
    /// The store is one like etcd, which knows nothing of the members' hosts.
    pub(crate) external_store: bool,
    /// Poolers that clients go through.
    pub(crate) poolers: usize,
    /// Known bug that is put back.
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Draws everything from `rng`.
    pub(crate) fn draw(rng: &mut Rng, bug: Option<Bug>) -> Self {
        let members = rng.pick(&[2, 3, 3, 3, 3, 4, 5]);
        let common = draw_settings(rng, bug);
        let unwilling = rng.chance(150).then(|| rng.index(members));
        let settings = (0..members).map(|member| Settings {
            nofailover: unwilling == Some(member),
            failover_priority: rng.pick(&[1, 1, 1, 2, 5]),
            ..common.clone()
        });
        let settings = settings.collect();
        let half = |rng: &mut Rng, slow: Time, fast: Time| if rng.chance(500) { slow } else { fast };
        let mut scenario = Self {
            members,
            settings,
            safety_phase: rng.within(40..120) * SECOND,
            fault_interval: rng.log_within(2..16) * SECOND,
            operator_interval: rng.chance(600).then(|| rng.log_within(4..40) * SECOND),
            faults: FaultKind::ALL.iter().copied().filter(|_| rng.chance(500)).collect(),
            operators: OperatorKind::ALL.iter().copied().filter(|_| rng.chance(500)).collect(),
            write_interval: rng.log_within(60..500) * MILLISECOND,
            write_bytes: rng.log_within(200..600_000),
            recovery_longest: half(rng, 4 * SECOND, 300 * MILLISECOND),
            promotion_longest: half(rng, 3 * SECOND, 90 * MILLISECOND),
            checkpoint_longest: half(rng, 8 * SECOND, 300 * MILLISECOND),
            copy_longest: half(rng, 10 * SECOND, 3 * SECOND),
            exit_longest: half(rng, 12 * SECOND, 30 * MILLISECOND),
            store_slowness: 0,
            external_store: false,
            poolers: 0,
            bug,
        };
        if rng.chance(100) {
            scenario.store_slowness = slow_store(&common);
            // What is slow for one ttl is too slow for another.
            scenario.operators.retain(|operator| *operator != OperatorKind::EditTtl);
        }
        scenario.external_store = rng.chance(300);
        scenario.poolers = rng.pick(&[0, 0, 1, 2]);
        scenario
    }

    /// The settings that a newly started agent reads.
    pub(crate) fn settings_of(&self, member: usize) -> Settings {
        self.settings[member].clone()
    }
}

/// The slowest store that a cluster with these settings has to get along with: a request and its answer come just within the time that
/// taking a lease leaves for it.
fn slow_store(settings: &Settings) -> Time {
    nanos(acquire_time(settings)) * 9 / 20
}

fn draw_settings(rng: &mut Rng, bug: Option<Bug>) -> Settings {
    Settings {
        ttl: Duration::from_secs(rng.pick(&[5, 5, 7, 10, 10, 15])),
        loop_wait: Duration::from_secs(rng.pick(&[1, 1, 1, 2])),
        retry_timeout: Duration::from_secs(rng.pick(&[2, 4, 4])),
        kill_time: Duration::from_millis(rng.pick(&[500, 1000])),
        maximum_lag_on_failover: rng.pick(&[100_000, 1 << 20, 1 << 20, 64 << 20]),
        primary_start_timeout: Duration::from_secs(rng.pick(&[0, 3, 30, 300])),
        use_pg_rewind: rng.chance(600),
        remove_data_on_rewind_failure: rng.chance(500),
        remove_data_on_diverged: rng.chance(500),
        paused: false,
        nofailover: false,
        failover_priority: 1,
        may_bootstrap: true,
        pause_within: Duration::from_millis(rng.pick(&[0, 100, 5000])),
        without_pause: rng.pick(&[WithoutPause::Proceed, WithoutPause::CallOff]),
        bugs: bug.map_or_else(Bugs::default, Bugs::with),
    }
}
