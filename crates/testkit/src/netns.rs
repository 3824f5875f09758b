//! A network of hosts on this machine: one network namespace for each, joined by a bridge, each link can be cut.
//!
//! ```text
//!   (and fd00:d5:0:N::/64)
//!   this machine: bridge 10.213.N.254 ──┬── veth ── namespace of host 1: 10.213.N.1
//!                                       ├── veth ── namespace of host 2: 10.213.N.2
//!                                       └── ...
//! ```
//!
//! Needs root. Two networks at once take different numbers N, held by a lock as ports are.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use crate::ports::{Lock, PortError};

/// How many networks this machine may have at once; each is a /24 of 10.213.0.0/16.
const NETWORKS: u8 = 200;

/// The bridge's own address in its network: the side of whoever runs the test.
const OWN_ADDRESS: u8 = 254;

/// Hosts of one network at most, well below the 253 addresses: more is a mistake in a test.
const HOSTS_MAX: u8 = 20;

/// A card's address that no card has: made by hand, never given out by a maker (IEEE 802, the locally administered bit).
const NOBODY: &str = "02:00:00:00:00:fe";

/// Why a network cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The program `ip` cannot be started.
    #[error("cannot run `ip`; install the package iproute2")]
    NoIp(#[source] io::Error),
    /// The program `ip` refused: most often for want of root's rights.
    #[error("`ip {command}` failed: {message}")]
    Refused {
        /// Its arguments.
        command: String,
        /// What it wrote.
        message: String,
    },
    /// No number is free.
    #[error("no free network number")]
    Number(#[from] PortError),
    /// More hosts than a network may have, or none.
    #[error("{0} hosts, where 1 to {HOSTS_MAX} are possible")]
    Hosts(u8),
}

/// A bridge with namespaces; all of it goes when this is dropped.
#[derive(Debug)]
pub struct Network {
    number: u8,
    hosts: u8,
    _lock: Lock,
}

impl Network {
    /// Makes a network of `hosts` hosts, numbered from 1, all of whose links are up.
    pub fn new(hosts: u8) -> Result<Self, NetworkError> {
        if !(1..=HOSTS_MAX).contains(&hosts) {
            return Err(NetworkError::Hosts(hosts));
        }
        let (number, lock) = hold_number()?;
        let network = Self { number, hosts, _lock: lock };
        // Whoever had this number before may have been killed before it could tidy up.
        network.remove();
        network.build()?;
        Ok(network)
    }

    /// The numbers of its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.hosts
    }

    /// The address of a host.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, host)
    }

    /// The address of this machine in it.
    pub fn own_address(&self) -> Ipv4Addr {
        self.address(OWN_ADDRESS)
    }

    /// The IPv6 address of a host; 254 stands for this machine.
    pub fn address6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 213, 0, u16::from(self.number), 0, 0, 0, u16::from(host))
    }

    /// The name of a host's namespace, for [`crate::HostProgram::inside`].
    pub fn namespace(&self, host: u8) -> String {
        format!("pgb{}-{host}", self.number)
    }

    /// Cuts a host off: from now on every packet from it and to it is lost, without any answer and with its own link
    /// still up, as when a switch dies.
    pub fn cut(&self, host: u8) -> Result<(), NetworkError> {
        ip(&format!("link set {} nomaster", self.port(host)))
    }

    /// Puts a cut link back.
    pub fn heal(&self, host: u8) -> Result<(), NetworkError> {
        ip(&format!("link set {} master {}", self.port(host), self.bridge()))
    }

    /// Parts two hosts from each other and from nobody else: what one sends to the other is lost, without any answer.
    pub fn part(&self, one: u8, other: u8) -> Result<(), NetworkError> {
        // Packets go to a card that does not exist. A route that leads nowhere would be an error at once for who sends.
        let lose = |from: u8, to: u8| {
            let (namespace, address) = (self.namespace(from), self.address(to));
            ip(&format!("-n {namespace} neigh replace {address} lladdr {NOBODY} nud permanent dev eth0"))
        };
        lose(one, other)?;
        lose(other, one)
    }

    /// Puts them together again.
    pub fn rejoin(&self, one: u8, other: u8) -> Result<(), NetworkError> {
        let find =
            |from: u8, to: u8| ip(&format!("-n {} neigh delete {} dev eth0", self.namespace(from), self.address(to)));
        find(one, other)?;
        find(other, one)
    }

    /// The bridge: the interface of this machine in it.
    pub fn bridge(&self) -> String {
        format!("pgb{}", self.number)
    }

    /// The bridge's end of a host's link.
    fn port(&self, host: u8) -> String {
        format!("pgb{}p{host}", self.number)
    }

    fn build(&self) -> Result<(), NetworkError> {
        let bridge = self.bridge();
        // Without spanning tree and its delay, a port forwards as soon as it is there.
        ip(&format!("link add {bridge} type bridge stp_state 0 forward_delay 0"))?;
        ip(&format!("address add {}/24 dev {bridge}", self.own_address()))?;
        ip(&format!("address add {}/64 dev {bridge} nodad", self.address6(OWN_ADDRESS)))?;
        ip(&format!("link set {bridge} up"))?;
        for host in self.hosts() {
            let (namespace, port) = (self.namespace(host), self.port(host));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {port} master {bridge} up"))?;
            ip(&format!("-n {namespace} address add {}/24 dev eth0", self.address(host)))?;
            ip(&format!("-n {namespace} address add {}/64 dev eth0 nodad", self.address6(host)))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
        }
        Ok(())
    }

    fn remove(&self) {
        // Losing errors is right here: what is not there needs no removing.
        for host in (1..=HOSTS_MAX).filter(|host| Path::new("/run/netns").join(self.namespace(*host)).exists()) {
            // Deleting the port deletes its peer at once; a namespace stays until its last process is gone.
            let _ = ip(&format!("link delete {}", self.port(host)));
            let _ = ip(&format!("netns delete {}", self.namespace(host)));
        }
        let _ = ip(&format!("link delete {}", self.bridge()));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn hold_number() -> Result<(u8, Lock), NetworkError> {
    for number in 0..NETWORKS {
        if let Some(lock) = Lock::try_hold(&format!("network-{number}"))? {
            return Ok((number, lock));
        }
    }
    Err(PortError::Exhausted { what: "networks", count: u16::from(NETWORKS) }.into())
}

fn ip(command: &str) -> Result<(), NetworkError> {
    let output = Command::new("ip").args(command.split(' ')).output().map_err(NetworkError::NoIp)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Refused { command: command.to_owned(), message })
}
