//! The clock that leases run on.

use pgbaton_types::BootTime;

/// Now, on `CLOCK_BOOTTIME`.
pub fn now() -> BootTime {
    BootTime(pgbaton_sys::clock::boottime())
}
