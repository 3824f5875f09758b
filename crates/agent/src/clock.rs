//! The two clocks: one for leases and waiting, one to tell people the time.

use std::time::{SystemTime, UNIX_EPOCH};

use pgbaton_types::BootTime;

/// Now, on the clock of leases.
pub(crate) fn now() -> BootTime {
    BootTime(pgbaton_sys::clock::boottime())
}

/// Seconds since 1970, for status documents only.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
