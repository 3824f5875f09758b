//! A pair of connected sockets that carry whole packets, in order, between two processes of one host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// One end of a `SOCK_SEQPACKET` pair. Neither direction waits, neither allocates.
#[derive(Debug)]
pub struct SeqPacket {
    fd: OwnedFd,
}

/// What [`SeqPacket::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of this length, the rest of the buffer being as it was.
    Packet(usize),
    /// A packet longer than the buffer; it is lost.
    TooLong,
    /// Nothing now.
    Nothing,
    /// The other end is closed in every process.
    Closed,
}

impl SeqPacket {
    /// Two connected ends, both closed on exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Takes over the end that was inherited under `number`, and makes it close on exec. An error if that is no packet
    /// socket. Only once per number, and only for one that nothing else in this process owns.
    pub fn inherited(number: RawFd) -> io::Result<Self> {
        // SAFETY: the flags of any number may be asked for; an error says that it is not open.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open, and by the contract above nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { fd })
    }

    /// The descriptor, to be inherited by another program.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether the other end is closed in every process and everything sent before was received.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let peek = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        matches!(recv(&self.fd, &mut [0_u8; 1], peek), Ok((_, 0)) | Err(Errno::CONNRESET | Errno::PIPE))
    }

    /// Waits until a packet can be received or the other end is closed, at most `timeout_ms` milliseconds.
    pub fn wait(&self, timeout_ms: u32) -> io::Result<bool> {
        let timeout =
            Timespec { tv_sec: i64::from(timeout_ms / 1000), tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000 };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one packet; `WouldBlock` when the other side has not read enough of those before.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match send(&self.fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one packet into `buffer`, which must not be empty. Empty packets count as a closed end.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let room = buffer.len();
        loop {
            // With TRUNC the kernel tells the packet's whole length, also when it did not fit.
            return match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, 0)) | Err(Errno::CONNRESET | Errno::PIPE) => Ok(Received::Closed),
                Ok((_, length)) if length > room => Ok(Received::TooLong),
                Ok((_, length)) => Ok(Received::Packet(length)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(Received::Nothing),
                Err(error) => Err(error.into()),
            };
        }
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{Received, SeqPacket};

    #[test]
    fn packets_keep_their_borders_and_the_end_is_seen() {
        let (one, other) = SeqPacket::pair().unwrap();
        let mut buffer = [0_u8; 8];
        assert_eq!(other.receive(&mut buffer).unwrap(), Received::Nothing);
        one.send(b"abc").unwrap();
        one.send(b"0123456789").unwrap();
        one.send(b"d").unwrap();
        assert_eq!(other.receive(&mut buffer).unwrap(), Received::Packet(3));
        assert_eq!(&buffer[..3], b"abc");
        assert_eq!(other.receive(&mut buffer).unwrap(), Received::TooLong);
        assert_eq!(other.receive(&mut buffer).unwrap(), Received::Packet(1));
        assert!(!other.is_closed() && !other.wait(0).unwrap());
        drop(one);
        assert!(other.is_closed() && other.wait(0).unwrap());
        assert_eq!(other.receive(&mut buffer).unwrap(), Received::Closed);
        assert!(other.send(b"x").is_err());
    }

    #[test]
    fn sending_never_waits() {
        let (one, _other) = SeqPacket::pair().unwrap();
        let full = (0..1_000_000).find_map(|_| one.send(&[0; 1024]).err()).expect("the buffer has an end");
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    }
}
