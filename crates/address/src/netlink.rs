//! The kernel's addresses and interfaces, by rtnetlink(7). One question at a time, each answered at once: all of it is local.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};

use crate::error::AddressError;
use crate::settings::Prefixed;

/// Longest wait for the kernel's answer, which comes within a millisecond; longer means that it was lost.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// Bytes of one datagram of answers: what iproute2 takes, and more than the kernel puts into one.
const DATAGRAM_BYTES: usize = 32 * 1024;
/// How often a list is asked for anew that changed while it was made.
const TRIES: u32 = 3;
/// The lifetime that stands for ever.
const FOREVER: u32 = u32::MAX;

/// A network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    /// Its hardware address, if its neighbours know it by one.
    pub(crate) hardware: Option<[u8; 6]>,
    pub(crate) up: bool,
}

/// An address that is on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) address: Prefixed,
    /// It stays until somebody takes it away.
    pub(crate) permanent: bool,
}

/// A socket to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// Why a question got no proper answer.
enum Failure {
    Refused(io::Error),
    NotUnderstood(DecodeError),
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // The protocol NETLINK_ROUTE is the one with the number 0.
        let socket = rustix::net::socket_with(SocketFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface of that name.
    pub(crate) fn interface(&mut self, name: &str) -> Result<Interface, AddressError> {
        let what = format!("look at the interface '{name}'");
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.ask(RouteNetlinkMessage::GetLink(question), NLM_F_ACK).map_err(|failure| match failure {
            Failure::Refused(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {
                AddressError::NoInterface { interface: name.to_owned() }
            }
            other => other.when(what.clone()),
        })?;
        let link = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        let link = link.ok_or_else(|| AddressError::NoInterface { interface: name.to_owned() })?;
        let flags = link.header.flags;
        let hardware = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        let known = !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback);
        Ok(Interface {
            index: link.header.index,
            hardware: hardware.filter(|_| known),
            up: flags.contains(LinkFlags::Up),
        })
    }

    /// The addresses on an interface.
    pub(crate) fn addresses(&mut self, interface: &Interface) -> Result<Vec<Found>, AddressError> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask(question, NLM_F_DUMP).map_err(|failure| failure.when("list addresses".to_owned()))?;
        let found = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == interface.index => found(&message),
            _ => None,
        });
        Ok(found.collect())
    }

    /// Puts an address on an interface, or gives the one that is there this lifetime, in whole seconds.
    pub(crate) fn put(
        &mut self,
        interface: &Interface,
        address: Prefixed,
        lifetime: Duration,
    ) -> Result<(), io::Error> {
        let mut message = message(interface, address);
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(FOREVER - 1);
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = seconds;
        // An IPv6 address without a preferred lifetime is used by whoever asks for it, and not as the source of this host's own
        // connections, which would break when it leaves. For IPv4 the kernel takes the first address of a network for that.
        lifetimes.ifa_preferred = if address.ip.is_ipv6() { 0 } else { seconds };
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        if address.ip.is_ipv6() {
            // Nobody else has it: that is what the lease is for. Looking for one who does would cost a second and more.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags).map(drop).map_err(Failure::into_io)
    }

    /// Takes an address off an interface. One that is not there is no error.
    pub(crate) fn remove(&mut self, interface: &Interface, address: Prefixed) -> Result<(), io::Error> {
        let question = RouteNetlinkMessage::DelAddress(message(interface, address));
        match self.ask(question, NLM_F_ACK) {
            Err(Failure::Refused(error)) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => Ok(()),
            other => other.map(drop).map_err(Failure::into_io),
        }
    }

    fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        for _ in 1..TRIES {
            let (answers, whole) = self.ask_once(question.clone(), flags)?;
            if whole {
                return Ok(answers);
            }
        }
        self.ask_once(question, flags).map(|(answers, _)| answers)
    }

    /// The answers, and whether nothing changed while they were made.
    fn ask_once(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let (mut answers, mut whole) = (Vec::new(), true);
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            let (length, _) = recv(&self.socket, &mut datagram[..], RecvFlags::empty())?;
            for answer in split(&datagram[..length])? {
                // What is left of a question that was given up.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Failure::Refused(error.to_io()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((answers, whole)),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of a datagram.
fn split(mut bytes: &[u8]) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Failure> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkMessage::deserialize(bytes).map_err(Failure::NotUnderstood)?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        messages.push(message);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(messages)
}

fn message(interface: &Interface, address: Prefixed) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.prefix_len = address.prefix;
    message.header.index = interface.index;
    message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    message
}

fn found(message: &AddressMessage) -> Option<Found> {
    let (mut local, mut peer, mut valid): (Option<IpAddr>, Option<IpAddr>, u32) = (None, None, FOREVER);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::CacheInfo(lifetimes) => valid = lifetimes.ifa_valid,
            _ => {}
        }
    }
    let address = Prefixed { ip: local.or(peer)?, prefix: message.header.prefix_len };
    Some(Found { address, permanent: valid == FOREVER })
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Refused(error.into())
    }
}

impl Failure {
    fn when(self, what: String) -> AddressError {
        match self {
            Self::Refused(source) => AddressError::System { what, source },
            Self::NotUnderstood(source) => AddressError::Answer { what, source },
        }
    }

    fn into_io(self) -> io::Error {
        match self {
            Self::Refused(error) => error,
            Self::NotUnderstood(error) => io::Error::other(error),
        }
    }
}
