use std::io;

use netlink_packet_core::DecodeError;

use crate::settings::Prefixed;

/// Why the address is not where it should be, or is not announced. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// There is no such interface.
    #[error(
        "there is no network interface '{interface}': correct address.interface (`ip link` shows those there are), or bring it up"
    )]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// The interface is down.
    #[error("the network interface '{interface}' is down: bring it up with `ip link set {interface} up`")]
    Down {
        /// The name.
        interface: String,
    },
    /// The process may not change addresses.
    #[error(
        "the agent may not change addresses of '{interface}': it needs the right CAP_NET_ADMIN; in its systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
    )]
    MayNotChange {
        /// The interface.
        interface: String,
    },
    /// The process may not send packets of its own.
    #[error(
        "the agent may not announce addresses on '{interface}', so that neighbours find this host only when their caches have run out: it needs the right CAP_NET_RAW; in its systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
    )]
    MayNotAnnounce {
        /// The interface.
        interface: String,
    },
    /// Somebody else has put the address on the interface for ever.
    #[error(
        "{address} is on '{interface}' without a lifetime, so somebody else has put it there: it is left as it is; remove it with `ip address del {address} dev {interface}`, and from wherever the host's network is configured"
    )]
    NotOurs {
        /// The address.
        address: Prefixed,
        /// The interface.
        interface: String,
    },
    /// The kernel refused something else.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer was not understood.
    #[error("the kernel's answer was not understood when trying to {what}")]
    Answer {
        /// What was to be done.
        what: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
}
