use std::time::Duration;

use pgbaton_types::BootTime;

/// True time of the simulated world in nanoseconds since it began. Nobody in it can read this.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MILLISECOND: Time = 1_000_000;

/// One second.
pub(crate) const SECOND: Time = 1_000_000_000;

/// A duration as time of the world.
pub(crate) fn nanos(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of one host: it began somewhere and runs a little wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostClock {
    /// What it showed when the world began.
    pub(crate) offset: u64,
    /// How much too fast it runs, in parts per million; -1000 to 1000 is what the lease arithmetic allows for.
    pub(crate) rate_error_ppm: i64,
}

impl HostClock {
    /// What it shows.
    pub(crate) fn read(&self, now: Time) -> BootTime {
        let drift = i128::from(now) * i128::from(self.rate_error_ppm) / 1_000_000;
        let shown = i128::from(self.offset) + i128::from(now) + drift;
        BootTime(u64::try_from(shown).unwrap_or(0))
    }

    /// The first moment at which it shows `shown` or more.
    pub(crate) fn when(&self, shown: BootTime) -> Time {
        let elapsed = i128::from(shown.0) - i128::from(self.offset);
        let guess = elapsed * 1_000_000 / (1_000_000 + i128::from(self.rate_error_ppm));
        let mut time = u64::try_from(guess).unwrap_or(0);
        while self.read(time) < shown {
            time += 1;
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again_on_a_drifting_clock() {
        for rate_error_ppm in [-1000, 0, 1000] {
            let clock = HostClock { offset: 77 * SECOND, rate_error_ppm };
            let time = 123_456_789_012;
            let found = clock.when(clock.read(time));
            assert!(found.abs_diff(time) <= 2, "{found} instead of {time}");
        }
    }
}
