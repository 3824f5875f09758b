//! Descriptors that a runtime of tokio waits for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the present runtime wait until `descriptor` can be read: whatever epoll(7) takes, an epoll descriptor for one.
///
/// # Errors
/// The kernel does not take it.
///
/// # Panics
/// Outside a runtime, or in one without I/O.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor each time and keeps it open for as long as it lives, which is as long as what
    // is made here has it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
