//! The arithmetic of leases: who may believe in one, and until when.
//!
//! The holder counts from the moment *before* its request was sent, the store from the moment at which it arrived; both
//! clocks may be wrong in their rate by one part in a thousand. So the holder is dead before the store lets another in.

use std::time::Duration;

use pgbaton_types::{BootTime, Epoch, Revision};

use crate::bugs::{Bug, Bugs};
use crate::observation::{Initialize, Lease};
use crate::settings::Settings;

/// Share of a granted ttl that its holder may use, in parts per thousand: twice the rate error of 1/1000 that two
/// clocks may have (kernel slew of 500 ppm and a crystal's 200 ppm, rounded up).
const USABLE_PER_MILLE: u32 = 998;

/// How long before the deadline the agent stops the server by itself: time for a fast shutdown with its checkpoint.
/// After it, K still remains for the guard. In a short lease a tenth of it, or nothing would be left to ride out
/// an election of the store.
const STOP_GRACE_MAX: Duration = Duration::from_millis(1500);

/// Two renewals are at least this far apart: more often would load the store without making the lease any safer.
const RENEW_PERIOD_MIN: Duration = Duration::from_millis(500);

/// A request that takes a lease has at least this long: longer than an answer takes in a store that is well.
const ACQUIRE_TIME_MIN: Duration = Duration::from_secs(1);

/// The moments of one renewal that a deadline may be reckoned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalTimes {
    /// Before the request was sent.
    pub sent: BootTime,
    /// When its answer had arrived.
    pub answered: BootTime,
}

/// When the last process of the server must be told to die, given a renewal that succeeded.
///
/// `granted` is the ttl that the store granted, never the own setting; `kill_time` is K.
pub fn deadline(times: RenewalTimes, granted: Duration, settings: &Settings) -> BootTime {
    let from = if settings.bugs.has(Bug::DeadlineFromReply) { times.answered } else { times.sent };
    let ttl = if settings.bugs.has(Bug::Fabric87249) { settings.ttl } else { granted };
    let usable = ttl * USABLE_PER_MILLE / 1000;
    from + usable.saturating_sub(settings.kill_time)
}

/// When the holder stops its server by itself if the lease is not renewed.
pub fn soft_deadline(deadline: BootTime, granted: Duration) -> BootTime {
    deadline - STOP_GRACE_MAX.min(granted / 10)
}

/// Time between two renewals: its own timer, not the loop's (a `loop_wait` of 10 s must not kill a primary whose
/// lease ends after 9.5 s).
pub fn renew_period(settings: &Settings) -> Duration {
    RENEW_PERIOD_MIN.max(settings.loop_wait.min(settings.ttl / 10))
}

/// Time until a lease that was just taken is renewed for the first time: a period after it was asked for, which in a slow store may
/// be long ago.
pub fn until_renewal(now: BootTime, lease: &Lease, settings: &Settings) -> Duration {
    let asked = lease.deadline + settings.kill_time - lease.granted * USABLE_PER_MILLE / 1000;
    renew_period(settings).saturating_sub(now.since(asked))
}

/// How long the store may take for one request that takes or keeps a lease of this ttl. Taking it needs two of them and keeping it
/// one more, before the agent stops the server by itself: a fifth is the most that the shortest lease leaves for each. Less would
/// leave the lease of a store that is slow, but answers, to nobody.
pub fn request_time(ttl: Duration) -> Duration {
    ttl / 5
}

/// How long each of the two requests that take a lease may take: nothing else is decided meanwhile, so that both have to fit into the
/// time for which the store is tried, unless that is shorter than the store takes when it is well.
pub fn acquire_time(settings: &Settings) -> Duration {
    request_time(settings.ttl).min(settings.retry_timeout / 2).max(ACQUIRE_TIME_MIN)
}

/// To what the base of epochs has to be raised before a lease is taken, so that its epoch is above `above`; none: it
/// need not be. `base` and `revision` are the store's as they were seen, and the transaction that takes the lease compares
/// the base once more. A store without the cluster's identity may be wiped again before that, and its revisions begin
/// anew: there the base alone has to be high enough.
pub fn base_to_raise(above: Epoch, base: u64, revision: Revision, initialize: Initialize) -> Option<u64> {
    let counts = matches!(initialize, Initialize::Done(_));
    let reached = base + if counts { revision.0 } else { 0 };
    (reached < above.0).then_some(above.0)
}

/// Whether the deadline has passed, as the executor and the guard judge it. `renewing`: a renewal is under way.
pub fn expired(now: BootTime, deadline: BootTime, renewing: bool, bugs: Bugs) -> bool {
    if renewing && bugs.has(Bug::Kubernetes44887) {
        return false;
    }
    now.reached(deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_deadline_counts_from_the_request_and_leaves_the_kill_time() {
        let settings = Settings { kill_time: Duration::from_millis(500), ..Settings::default() };
        let times = RenewalTimes { sent: BootTime(100 * SECOND), answered: BootTime(103 * SECOND) };
        let deadline = deadline(times, Duration::from_secs(10), &settings);
        assert_eq!(deadline, BootTime(100 * SECOND + 9_480_000_000));
    }

    #[test]
    fn the_granted_ttl_counts_not_the_own_setting() {
        let settings = Settings { ttl: Duration::from_secs(30), ..Settings::default() };
        let times = RenewalTimes { sent: BootTime(0), answered: BootTime(0) };
        assert_eq!(deadline(times, Duration::from_secs(5), &settings), BootTime(3_990_000_000));
    }

    #[test]
    fn revisions_count_only_in_a_store_that_knows_the_cluster() {
        let known = Initialize::Done(pgbaton_types::SystemId(7));
        let raised = |initialize, base| base_to_raise(Epoch(6), base, Revision(10), initialize);
        assert_eq!(
            [raised(known, 0), raised(Initialize::Absent, 0), raised(Initialize::Absent, 6)],
            [None, Some(6), None]
        );
        assert_eq!(base_to_raise(Epoch(60), 5, Revision(10), known), Some(60));
    }

    #[test]
    fn a_lease_that_took_its_time_is_renewed_the_sooner() {
        let settings = Settings::default();
        let times = RenewalTimes { sent: BootTime(100 * SECOND), answered: BootTime(103 * SECOND) };
        let granted = Duration::from_secs(10);
        let deadline = deadline(times, granted, &settings);
        let lease = Lease { epoch: Epoch(5), created: Revision(5), granted, deadline };
        let until = |millis: u64| until_renewal(BootTime(millis * 1_000_000), &lease, &settings).as_millis();
        assert_eq!([until(100_000), until(100_400), until(103_000)], [1000, 600, 0]);
    }

    #[test]
    fn a_slow_store_leaves_time_to_take_and_to_renew_a_lease() {
        for (ttl, kill_time) in [(5, 1000), (5, 500), (10, 1000), (30, 1000)] {
            let settings = Settings { kill_time: Duration::from_millis(kill_time), ..Settings::default() };
            let ttl = Duration::from_secs(ttl);
            let times = RenewalTimes { sent: BootTime(0), answered: BootTime(0) };
            let stops = soft_deadline(deadline(times, ttl, &settings), ttl);
            assert!(BootTime(0) + request_time(ttl) * 3 < stops, "{ttl:?}");
        }
    }

    #[test]
    fn renewals_have_their_own_period() {
        let period = |ttl, wait| {
            let settings =
                Settings { ttl: Duration::from_secs(ttl), loop_wait: Duration::from_secs(wait), ..Settings::default() };
            renew_period(&settings).as_millis()
        };
        assert_eq!([period(10, 1), period(10, 10), period(5, 1), period(30, 10)], [1000, 1000, 500, 3000]);
    }
}
