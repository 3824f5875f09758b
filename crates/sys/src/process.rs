//! The calling process itself: sub-reaper, name, fork, its children, and its standard error.

use std::ffi::CStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};

/// Makes orphans below this process its own children, instead of init's (`PR_SET_CHILD_SUBREAPER`, `prctl(2)`).
pub fn become_subreaper() -> io::Result<()> {
    // The value only has to be something; the kernel takes it as a flag.
    Ok(rustix::process::set_child_subreaper(Some(Pid::INIT))?)
}

/// Sets the name that `ps -o comm` shows; the kernel keeps its first 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// This process's id.
#[must_use]
pub fn own_pid() -> Pid {
    rustix::process::getpid()
}

/// The parent's process id; none when the parent is outside this PID namespace.
#[must_use]
pub fn parent_pid() -> Option<Pid> {
    rustix::process::getppid()
}

/// Makes this process the leader of a new session, without a terminal.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Sends `signal` to `pid`. Only for children that are not reaped: other numbers may have been given to another process.
pub fn send(pid: Pid, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Writes `line` to standard error if that takes it without waiting, else drops it. Allocates nothing.
pub fn try_write_stderr(line: &[u8]) {
    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if matches!(poll(&mut fds, Some(&now)), Ok(1)) {
        // There is nowhere else to say that standard error is broken.
        let _ = rustix::io::write(&stderr, line);
    }
}

/// Exit status of a forked child whose closure panicked.
const PANICKED: u8 = 101;

/// Forks; the child runs `child` and exits with its result, without returning into the caller's frames.
///
/// # Errors
/// `ErrorKind::Unsupported` when the process has more than one thread: locks held by the others would stay held in the
/// child for ever. Else what `fork(2)` reports.
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    if threads()? != 1 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // SAFETY: this is the only thread (checked above, and only it could start another), so the child's copy of memory
    // is consistent and it may do whatever the parent might.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            // SAFETY: `_exit` is always sound; it skips the destructors and exit handlers that belong to the parent.
            unsafe { libc::_exit(i32::from(code)) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
    }
}

fn threads() -> io::Result<u64> {
    use std::os::linux::fs::MetadataExt as _;
    // The directory has two links of its own and one per thread.
    Ok(std::fs::metadata("/proc/self/task")?.st_nlink().saturating_sub(2))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// The child.
    pub pid: Pid,
    /// The raw status of `wait(2)`.
    pub status: i32,
}

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reap {
    /// A child had ended and is reaped now.
    Ended(Reaped),
    /// There are children, and none has ended.
    Running,
    /// There are no children at all.
    NoChildren,
}

/// Reaps one child that has ended, if any; does not wait. Allocates nothing.
pub fn reap() -> io::Result<Reap> {
    match rustix::process::wait(WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => Ok(Reap::Ended(Reaped { pid, status: status.as_raw() })),
        Ok(None) | Err(rustix::io::Errno::INTR) => Ok(Reap::Running),
        Err(rustix::io::Errno::CHILD) => Ok(Reap::NoChildren),
        Err(error) => Err(error.into()),
    }
}

/// The exit code in a raw status of `wait(2)`; `None` when a signal ended the process.
#[must_use]
pub fn exit_code(status: i32) -> Option<u8> {
    if ending_signal(status).is_none() { u8::try_from((status >> 8) & 0xff).ok() } else { None }
}

/// The signal that ended the process, from a raw status of `wait(2)`; `None` when it exited by itself.
#[must_use]
pub fn ending_signal(status: i32) -> Option<i32> {
    let signal = status & 0x7f;
    (signal != 0).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::{ending_signal, exit_code};

    #[test]
    fn statuses_are_taken_apart() {
        assert_eq!(exit_code(0x0200), Some(2));
        assert_eq!(ending_signal(0x0200), None);
        assert_eq!(exit_code(9), None);
        assert_eq!(ending_signal(9), Some(9));
        assert_eq!(ending_signal(0x80 | 6), Some(6));
    }
}
