//! Packets to all hosts of a link, as they announce an address: a raw socket of the kernel's packet family (packet(7)).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A socket that sends and receives nothing by itself. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens it.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing is ever received.
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket })
    }

    /// Sends `payload` with an Ethernet header in front of it: from the interface with this index, to the hardware address `to`, of
    /// the protocol with this number (such as 0x0806 for ARP).
    ///
    /// # Errors
    /// What the system said, such as `NetworkDown` for an interface that is down.
    pub fn send(&self, interface: u32, protocol: u16, to: [u8; 6], payload: &[u8]) -> io::Result<()> {
        let index = i32::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut address = [0; 8];
        address[..to.len()].copy_from_slice(&to);
        let target = libc::sockaddr_ll {
            sll_family: AddressFamily::PACKET.as_raw(),
            sll_protocol: protocol.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        };
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: pointers to a live buffer and a live, initialised structure, each with its own length.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_NOSIGNAL,
                (&raw const target).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
