//! Signals read from a descriptor instead of by handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::process::Signal;

/// A `signalfd` for a set of signals that it also blocks in the calling thread. Call it before any other thread is
/// started, so that these inherit the mask. Reading allocates nothing.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` and opens the descriptor.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given; every later call gets that set, and checked results.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The number of the next signal that has arrived at the calling process, if any.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is as long as said; the kernel writes whole records only.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(read) == Ok(size) {
            // SAFETY: a whole record was written.
            let info = unsafe { info.assume_init() };
            return Ok(i32::try_from(info.ssi_signo).ok());
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::SignalFd;

    #[test]
    fn a_signal_is_read_once() {
        let signals = SignalFd::new(&[Signal::WINCH]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // To this thread, since the test harness has others that do not block it.
        // SAFETY: raising a blocked signal only marks it as pending.
        assert_eq!(unsafe { libc::raise(Signal::WINCH.as_raw()) }, 0);
        assert_eq!(signals.next().unwrap(), Some(Signal::WINCH.as_raw()));
        assert_eq!(signals.next().unwrap(), None);
    }
}
