//! Rights that make a process dependable under load; without root most of them are refused.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};

/// Schedules the calling process by `SCHED_FIFO` at the lowest real-time priority: before every ordinary process, after
/// whatever else on the host is real-time. Children are scheduled as usual again (`SCHED_RESET_ON_FORK`).
/// Needs `CAP_SYS_NICE` or `RLIMIT_RTPRIO`.
pub fn schedule_fifo() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: a pointer to a live, initialised structure.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps in memory every page that the process has touched or will touch; pages never touched stay out, so that a
/// large executable does not become resident as a whole. Needs `CAP_IPC_LOCK`, or `RLIMIT_MEMLOCK` above the size of the
/// address space.
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

/// The calling process's `oom_score_adj`.
pub fn oom_score_adj() -> io::Result<i16> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Exempts the calling process from the out-of-memory killer. Needs `CAP_SYS_RESOURCE`.
pub fn never_oom_kill() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", "-1000")
}
