//! `CLOCK_BOOTTIME`: the clock of every lease. It goes on while the host is suspended, and no step of the wall clock
//! moves it.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on `CLOCK_BOOTTIME` since the host was booted. Allocates nothing.
#[must_use]
pub fn boottime() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::boottime;

    #[test]
    fn it_never_goes_back() {
        let mut last = boottime();
        assert!(last > 0);
        for _ in 0..1000 {
            let now = boottime();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }
}
