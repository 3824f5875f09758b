//! The clock that leases run on.

use pgbaton_types::BootTime;
use rustix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_BOOTTIME`.
pub fn now() -> BootTime {
    /// Nanoseconds of a second.
    const SECOND: u64 = 1_000_000_000;
    let time = clock_gettime(ClockId::Boottime);
    // The kernel's clock starts at 0 with the machine and its nanoseconds are below one second.
    BootTime(u64::try_from(time.tv_sec).unwrap_or(0) * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0))
}
