//! Sockets that systemd has opened (`sd_listen_fds(3))`: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first of them, after the three standard ones.
const FIRST: RawFd = 3;
/// The name of one without a name, as systemd has it.
const UNKNOWN: &str = "unknown";

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The listening sockets that were handed to this process, by name: that of the socket unit, or its `FileDescriptorName`. Empty without any, and
/// when they were taken already.
#[must_use]
pub fn listeners() -> BTreeMap<String, TcpListener> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| ours).and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0);
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return BTreeMap::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut listeners = BTreeMap::new();
    for at in FIRST..FIRST + count {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| UNKNOWN.to_owned());
        if is_listening(at) {
            // SAFETY: systemd has opened it for this process alone, whose number it has written, and nobody else here has taken it: see above.
            let owned = unsafe { OwnedFd::from_raw_fd(at) };
            // A failure leaves it open in programs that are started, which does no harm.
            let _ = rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC);
            listeners.insert(name, TcpListener::from(owned));
        }
    }
    listeners
}

fn is_listening(at: RawFd) -> bool {
    // SAFETY: borrowed for the two questions below only; a number that is not open is answered with an error.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(at) };
    rustix::net::sockopt::socket_acceptconn(borrowed).unwrap_or(false)
}
