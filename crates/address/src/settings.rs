use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How the virtual address is kept on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name in the scripts' arguments: the cluster's.
    pub name: String,
    /// The interface that the addresses are put on.
    pub interface: String,
    /// The addresses.
    pub addresses: Vec<Prefixed>,
    /// Who puts them there.
    pub managed_by: ManagedBy,
    /// How often they are announced while nothing happens: heals neighbours that missed it, because their part of the network was cut off.
    pub announce_interval: Duration,
    /// The file with a number for keepalived's `track_file`.
    pub state_file: Option<PathBuf>,
    /// What is run at each change.
    pub scripts: Scripts,
}

/// Who puts the addresses on the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManagedBy {
    /// This program.
    #[default]
    Pgbaton,
    /// The scripts, as UCARP's do. The kernel does not take such an address away by itself.
    Scripts,
}

/// Commands that are run at each change, each a program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scripts {
    /// keepalived's `notify`: gets `INSTANCE`, the name, `MASTER`, `BACKUP`, `FAULT` or `STOP`, and the priority.
    pub notify: Option<Vec<String>>,
    /// keepalived's `notify_master`.
    pub notify_master: Option<Vec<String>>,
    /// keepalived's `notify_backup`.
    pub notify_backup: Option<Vec<String>>,
    /// keepalived's `notify_fault`.
    pub notify_fault: Option<Vec<String>>,
    /// keepalived's `notify_stop`.
    pub notify_stop: Option<Vec<String>>,
    /// The last argument of `notify`.
    pub priority: u8,
    /// UCARP's `--upscript`: gets the interface, the address and, if there is one, the extra parameter.
    pub up: Option<Vec<String>>,
    /// UCARP's `--downscript`.
    pub down: Option<Vec<String>>,
    /// UCARP's `--xparam`.
    pub extra: Option<String>,
    /// The longest time that each may take; then it is killed with all that it started.
    pub within: Duration,
}

/// An address with the length of its network's prefix: `10.0.0.9/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefixed {
    /// The address.
    pub ip: IpAddr,
    /// The length in bits: at most 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
}

impl fmt::Display for Prefixed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.ip, self.prefix)
    }
}
