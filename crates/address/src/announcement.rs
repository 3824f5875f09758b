//! What tells the neighbours where an address is now, and when it is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pgbaton_sys::packet::PacketSocket;
use pgbaton_types::BootTime;

use crate::netlink::Interface;

/// When an address that has just arrived is announced: at once, and again in case that packets get lost or a switch has just put its port
/// into service. Later it is announced at the interval that the configuration gives.
const AFTER_ARRIVAL: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Everybody on an Ethernet.
const EVERYBODY: [u8; 6] = [0xff; 6];
/// Every host that speaks IPv6 (RFC 2464, section 7, for `ff02::1`).
const ALL_NODES_HARDWARE: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Protocols of Ethernet (IEEE 802 numbers).
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Operations of ARP (RFC 826).
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// `ICMPv6` as a protocol of IPv6 (RFC 4443), a neighbour advertisement in it, and its flag "override" (RFC 4861, section 4.4).
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;

/// When to announce next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    arrived: BootTime,
    done: usize,
    next: BootTime,
}

impl Schedule {
    /// For an address that has arrived now.
    pub(crate) fn new(now: BootTime) -> Self {
        Self { arrived: now, done: 0, next: now }
    }

    pub(crate) fn next(&self) -> BootTime {
        self.next
    }

    /// It was announced now.
    pub(crate) fn announced(&mut self, now: BootTime, interval: Duration) {
        self.done += 1;
        self.next = match AFTER_ARRIVAL.get(self.done) {
            Some(after) => self.arrived + *after,
            None => now + interval,
        };
    }
}

/// Announces an address once, in each form that some neighbour listens to.
pub(crate) fn send(socket: &PacketSocket, interface: &Interface, address: IpAddr) -> io::Result<()> {
    // Without neighbours there is nobody to tell.
    let Some(hardware) = interface.hardware else { return Ok(()) };
    match address {
        IpAddr::V4(ip) => {
            for operation in [REQUEST, REPLY] {
                socket.send(interface.index, ARP, EVERYBODY, &arp(operation, hardware, ip))?;
            }
            Ok(())
        }
        IpAddr::V6(ip) => socket.send(interface.index, IPV6, ALL_NODES_HARDWARE, &advertisement(hardware, ip)),
    }
}

/// Gratuitous ARP (RFC 5227, section 3): sender and target are the address itself.
fn arp(operation: u8, hardware: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    // Ethernet, IPv4, lengths of their addresses, operation.
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(hardware);
    packet.extend(ip.octets());
    // A request does not know whom it looks for.
    packet.extend(if operation == REPLY { hardware } else { [0; 6] });
    packet.extend(ip.octets());
    packet
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6), with the header of IPv6.
fn advertisement(hardware: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(ip.octets());
    // Option "target link-layer address", of 8 bytes.
    message.extend([2, 1]);
    message.extend(hardware);
    let sum = checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    // Version 6, no traffic class or flow; a neighbour takes it only with all its hops left.
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, 255];
    packet.extend(ip.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    packet
}

/// The checksum of `ICMPv6`, over the pseudo-header (RFC 8200, section 8.1) and the message, whose own is zero.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_arp_packet_has_its_28_bytes() {
        let packet = arp(REPLY, HARDWARE, Ipv4Addr::new(10, 0, 0, 9));
        let expected = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 7, 10, 0, 0, 9, 2, 0, 0, 0, 0, 7, 10, 0, 0, 9];
        assert_eq!(packet, expected);
        assert_eq!(arp(REQUEST, HARDWARE, Ipv4Addr::new(10, 0, 0, 9))[18..24], [0; 6]);
    }

    #[test]
    fn the_checksum_of_an_advertisement_sums_up_to_nothing() {
        let ip: Ipv6Addr = "fd00::9".parse().unwrap();
        let packet = advertisement(HARDWARE, ip);
        assert_eq!((packet.len(), packet[6], packet[7], packet[40]), (72, ICMPV6, 255, ADVERTISEMENT));
        assert_ne!(packet[42..44], [0, 0]);
        // With its checksum in place, the sum over everything is zero (RFC 1071).
        assert_eq!(checksum(ip, ALL_NODES, &packet[40..]), 0);
    }

    #[test]
    fn an_arrival_is_announced_at_once_and_again_and_again() {
        let start = BootTime(1_000_000_000_000);
        let mut schedule = Schedule::new(start);
        let mut at = Vec::new();
        for _ in 0..8 {
            let now = schedule.next();
            at.push(now.since(start).as_millis());
            schedule.announced(now, Duration::from_secs(30));
        }
        assert_eq!(at, [0, 100, 300, 1_000, 2_000, 5_000, 35_000, 65_000]);
    }
}
