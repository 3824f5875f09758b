use std::time::Duration;

use serde::Serialize;

use crate::diagnostic::Findings;
use crate::section::Section;

/// How long a lease lasts and how often it is looked after. Always `loop_wait + 2 * retry_timeout <= ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// The lifetime of the leader key.
    pub ttl: Duration,
    /// The time between two ticks of the agent.
    pub loop_wait: Duration,
    /// How long an operation on the store or on PostgreSQL is tried.
    pub retry_timeout: Duration,
}

impl Timing {
    /// The shortest lease: below it, a busy disk or one lost packet would cost a failover.
    pub const TTL_MIN: Duration = Duration::from_secs(5);
    /// The longest lease, a day: nobody waits longer for a failover, and sums stay far from overflow.
    pub const TTL_MAX: Duration = Duration::from_hours(24);
    /// The shortest pause between ticks; each tick asks the server.
    pub const LOOP_WAIT_MIN: Duration = Duration::from_millis(100);
    /// The shortest time for an operation: a connection and an answer on a busy host.
    pub const RETRY_TIMEOUT_MIN: Duration = Duration::from_millis(500);
    /// What a file that says nothing means.
    pub const DEFAULT: Self =
        Self { ttl: Duration::from_secs(10), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(4) };

    /// Reads the three keys. What is written is obeyed; what is not written takes its default or less, so that the
    /// whole is possible. An impossible whole is an error.
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        let ttl = bounded(section, "ttl", Self::TTL_MIN, findings);
        let loop_wait = bounded(section, "loop_wait", Self::LOOP_WAIT_MIN, findings);
        let retry_timeout = bounded(section, "retry_timeout", Self::RETRY_TIMEOUT_MIN, findings);
        let timing = Self::completed(ttl, loop_wait, retry_timeout);
        if !timing.is_possible() {
            let keys = ["ttl", "retry_timeout", "loop_wait"];
            let key = keys.into_iter().find(|key| section.get(key).is_some()).unwrap_or("ttl");
            let place = section.get(key).map(|node| node.place.clone()).unwrap_or_default();
            let message = format!(
                "loop_wait + 2 * retry_timeout must not exceed ttl, but {} + 2 * {} > {}",
                seconds(timing.loop_wait),
                seconds(timing.retry_timeout),
                seconds(timing.ttl)
            );
            let help = "raise ttl, or lower loop_wait or retry_timeout (all in seconds)";
            findings.error(&section.path_of(key), &place, message, help);
            return timing.made_possible();
        }
        timing
    }

    /// Fills in what is absent.
    fn completed(ttl: Option<Duration>, loop_wait: Option<Duration>, retry_timeout: Option<Duration>) -> Self {
        let ttl_or_needed = ttl.unwrap_or_else(|| {
            let loop_wait = loop_wait.unwrap_or(Self::DEFAULT.loop_wait);
            let retry_timeout = retry_timeout.unwrap_or(Self::DEFAULT.retry_timeout);
            Self::DEFAULT.ttl.max(loop_wait + 2 * retry_timeout)
        });
        let loop_wait = loop_wait.unwrap_or_else(|| {
            let room = ttl_or_needed.saturating_sub(2 * retry_timeout.unwrap_or(Self::RETRY_TIMEOUT_MIN));
            Self::DEFAULT.loop_wait.min(room).max(Self::LOOP_WAIT_MIN)
        });
        let retry_timeout = retry_timeout.unwrap_or_else(|| {
            let room = ttl_or_needed.saturating_sub(loop_wait) / 2;
            Self::DEFAULT.retry_timeout.min(room).max(Self::RETRY_TIMEOUT_MIN)
        });
        Self { ttl: ttl_or_needed, loop_wait, retry_timeout }
    }

    fn is_possible(self) -> bool {
        self.loop_wait + 2 * self.retry_timeout <= self.ttl
    }

    /// The nearest possible timing, for a document that was already stored: ttl stays.
    fn made_possible(self) -> Self {
        let ttl = self.ttl.max(Self::TTL_MIN);
        let loop_wait = self.loop_wait.min(Self::DEFAULT.loop_wait);
        let room = ttl.saturating_sub(loop_wait) / 2;
        Self { ttl, loop_wait, retry_timeout: self.retry_timeout.min(room) }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A duration of the section that is at least `least` and at most [`Timing::TTL_MAX`]; absent after a finding.
fn bounded(section: &Section<'_>, key: &str, least: Duration, findings: &mut Findings) -> Option<Duration> {
    let value = section.seconds(key, findings)?;
    let bound = if value < least {
        format!("{key} must be at least {} seconds", seconds(least))
    } else if value > Timing::TTL_MAX {
        format!("{key} must be at most {} seconds", seconds(Timing::TTL_MAX))
    } else {
        return Some(value);
    };
    let place = section.get(key).map(|node| node.place.clone()).unwrap_or_default();
    findings.error(&section.path_of(key), &place, format!("{bound}, found {}", seconds(value)), "");
    None
}

/// Seconds as a person writes them.
fn seconds(duration: Duration) -> String {
    format!("{}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(ttl: Option<u64>, loop_wait: Option<u64>, retry: Option<u64>) -> (f64, f64, f64) {
        let of = |value: Option<u64>| value.map(Duration::from_secs);
        let timing = Timing::completed(of(ttl), of(loop_wait), of(retry));
        (timing.ttl.as_secs_f64(), timing.loop_wait.as_secs_f64(), timing.retry_timeout.as_secs_f64())
    }

    #[test]
    fn what_is_not_written_fits_what_is() {
        let cases = [
            ((None, None, None), (10.0, 1.0, 4.0)),
            ((Some(30), None, None), (30.0, 1.0, 4.0)),
            ((Some(5), None, None), (5.0, 1.0, 2.0)),
            ((Some(20), Some(10), None), (20.0, 10.0, 4.0)),
            ((None, Some(10), None), (18.0, 10.0, 4.0)),
            ((None, None, Some(10)), (21.0, 1.0, 10.0)),
            ((Some(20), None, Some(10)), (20.0, 0.1, 10.0)),
            ((Some(30), Some(10), Some(10)), (30.0, 10.0, 10.0)),
        ];
        for ((ttl, loop_wait, retry), expected) in cases {
            assert_eq!(completed(ttl, loop_wait, retry), expected, "{ttl:?} {loop_wait:?} {retry:?}");
        }
    }
}
