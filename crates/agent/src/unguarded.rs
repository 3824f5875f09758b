//! A postmaster on our data directory that the guard did not start: it is seen, never adopted, and stopped by its number only after a
//! second look at what that number is.

use std::fs;
use std::io;
use std::path::Path;

use pgbaton_guard::wire::Postmaster;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The process id of a living postmaster on `data_dir` other than `own`.
pub(crate) fn find(data_dir: &Path, own: Option<Postmaster>) -> Option<i32> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    if own.is_some_and(|own| own.pid == pid) || pid <= 1 {
        return None;
    }
    works_here(pid, data_dir).then_some(pid)
}

/// A postmaster changes to its data directory at its start.
fn works_here(pid: i32, data_dir: &Path) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_server = comm.starts_with("postgres") || comm.starts_with("postmaster");
    let directory = fs::read_link(format!("/proc/{pid}/cwd"));
    let ours = data_dir.canonicalize();
    is_server && matches!((directory, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// Sends a signal to that postmaster, held by a descriptor while it is looked at once more.
pub(crate) fn signal(pid: i32, data_dir: &Path, signal: Signal) -> io::Result<()> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let held = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !works_here(pid, data_dir) {
        return Ok(());
    }
    match pidfd_send_signal(&held, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
