//! Processes held by descriptor, so that a number used anew is never taken for the process that had it before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A descriptor of one process; readable once that process has ended. Allocates nothing.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// The process that has the number `pid` now. `ESRCH` when there is none.
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self { fd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Sends `signal`. `ESRCH` when the process has been reaped.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }

    /// Whether the process has ended, waiting for that at most `timeout_ms` milliseconds.
    pub fn ended(&self, timeout_ms: u32) -> io::Result<bool> {
        let timeout =
            Timespec { tv_sec: i64::from(timeout_ms / 1000), tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000 };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal};

    use super::PidFd;

    #[test]
    fn a_process_is_signalled_and_its_end_seen() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let held = PidFd::open(Pid::from_child(&child)).unwrap();
        assert!(!held.ended(0).unwrap());
        held.send(Signal::KILL).unwrap();
        assert!(held.ended(30_000).unwrap());
        child.wait().unwrap();
        assert_eq!(held.send(Signal::KILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
