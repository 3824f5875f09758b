//! Waiting: a timer for absolute points on `CLOCK_BOOTTIME`, a counter that wakes another process, and a poll of several
//! descriptors. Allocates nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A `timerfd`: readable from the set time on, until [`DeadlineTimer::drain`].
#[derive(Debug)]
pub struct DeadlineTimer {
    fd: OwnedFd,
}

impl DeadlineTimer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)? })
    }

    /// Sets the timer to `at`, nanoseconds on `CLOCK_BOOTTIME`; a time that has passed makes it readable at once.
    /// `None` stops it.
    pub fn set(&self, at: Option<u64>) -> io::Result<()> {
        // Zero would stop the timer instead of firing at once.
        let value = at.map_or(0, |nanos| nanos.max(1));
        let value = Timespec {
            tv_sec: i64::try_from(value / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(value % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Makes the timer unreadable again after it fired.
    pub fn drain(&self) -> io::Result<()> {
        drain(&self.fd)
    }
}

/// A counter that one process raises to wake another that polls it.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
}

impl Wake {
    /// An `eventfd` that is not readable yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    /// Makes it readable, until [`Wake::drain`].
    pub fn raise(&self) -> io::Result<()> {
        match rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
            // At its highest count it is readable as it is.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it unreadable again.
    pub fn drain(&self) -> io::Result<()> {
        drain(&self.fd)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn drain(fd: &OwnedFd) -> io::Result<()> {
    let mut count = [0_u8; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until at least one of `fds` is readable or closed, or a signal handler ran. At most eight are looked at. Says
/// for each place whether it is. Allocates nothing.
pub fn wait_readable(fds: &[Option<BorrowedFd<'_>>]) -> io::Result<[bool; 8]> {
    let mut polled: [MaybeUninit<PollFd<'_>>; 8] = [const { MaybeUninit::uninit() }; 8];
    let mut places = [0; 8];
    let mut count = 0;
    for (place, fd) in fds.iter().enumerate().take(8) {
        if let Some(fd) = fd {
            polled[count].write(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
            places[count] = place;
            count += 1;
        }
    }
    // SAFETY: the first `count` entries were written above.
    let polled = unsafe { &mut *(&raw mut polled[..count] as *mut [PollFd<'_>]) };
    let mut ready = [false; 8];
    match poll(polled, None) {
        Ok(_) => {
            for (entry, place) in polled.iter().zip(places) {
                ready[place] = !entry.revents().is_empty();
            }
            Ok(ready)
        }
        Err(rustix::io::Errno::INTR) => Ok(ready),
        Err(error) => Err(error.into()),
    }
}

impl AsFd for DeadlineTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::DeadlineTimer;
    use crate::clock::boottime;

    fn readable(timer: &DeadlineTimer, seconds: i64) -> bool {
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn it_fires_at_its_time_and_not_before() {
        let timer = DeadlineTimer::new().unwrap();
        assert!(!readable(&timer, 0));
        let at = boottime() + 30_000_000;
        timer.set(Some(at)).unwrap();
        assert!(readable(&timer, 30));
        assert!(boottime() >= at);
        timer.drain().unwrap();
        assert!(!readable(&timer, 0));
    }

    #[test]
    fn a_time_in_the_past_fires_at_once_and_none_stops_it() {
        let timer = DeadlineTimer::new().unwrap();
        timer.set(Some(0)).unwrap();
        assert!(readable(&timer, 30));
        timer.set(Some(u64::MAX)).unwrap();
        assert!(!readable(&timer, 0));
        timer.set(None).unwrap();
        assert!(!readable(&timer, 0));
    }
}
