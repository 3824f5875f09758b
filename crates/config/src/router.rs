use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::{Findings, Place};
use crate::document::{Kind, Node};
use crate::etcd::EtcdConfig;
use crate::section::{Section, known};
use crate::values::{HostPort, Secret};

/// Keys of the section `router`.
const KEYS: &[&str] = &[
    "ports",
    "sessions_max",
    "held_max",
    "hold_within",
    "connect_within",
    "startup_within",
    "idle_within",
    "drain_within",
    "lease",
    "workers",
    "metrics",
];
/// Keys of one of its ports.
const PORT_KEYS: &[&str] = &["name", "listen", "mode", "lag_max", "site", "primary", "accept_proxy", "send_proxy"];

/// The router: the section `router`, of a file of its own or of a member's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its ports, at least one.
    pub ports: Vec<RouterPort>,
    /// The most connections at a time.
    pub sessions_max: usize,
    /// The most connections that wait for a server at a time.
    pub held_max: usize,
    /// The longest wait for a server.
    pub hold_within: Duration,
    /// The longest time for a connection to a server to be made.
    pub connect_within: Duration,
    /// The longest time for a client to send its first packet.
    pub startup_within: Duration,
    /// A session without a byte for this long is ended; none: never.
    pub idle_within: Option<Duration>,
    /// How long sessions may go on after a stop or a reload that takes their port away.
    pub drain_within: Duration,
    /// After this long without an answer of the store all sessions end.
    pub lease: Duration,
    /// Threads; none: one for each processor.
    pub workers: Option<usize>,
    /// Where metrics and state are served over HTTP; none: nowhere.
    pub metrics: Option<HostPort>,
}

/// One port of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterPort {
    /// Its name in logs and metrics; unless given, its mode with its address.
    pub name: String,
    /// Where it listens, `host:port`, or `systemd:NAME`.
    pub listen: String,
    /// Connections that write: to the primary. Otherwise to a standby.
    pub writes: bool,
    /// How many bytes a standby may have to replay.
    pub lag_max: Option<u64>,
    /// Members with this tag `site` go first.
    pub site: Option<String>,
    /// Whether the primary is used for connections that only read.
    pub primary: RouterPrimary,
    /// Clients begin with a header of the PROXY protocol.
    pub accept_proxy: bool,
    /// Servers are sent one.
    pub send_proxy: bool,
}

/// Whether the primary is used for connections that only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouterPrimary {
    /// Never.
    #[default]
    Never,
    /// When no standby can be used.
    Last,
    /// As any standby.
    Always,
}

/// How somebody who is no member reaches the store: the sections `etcd3` or `raft`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStore {
    /// A real etcd.
    Etcd(EtcdConfig),
    /// The members' own.
    Members {
        /// Their addresses: `raft.partner_addrs`, and `raft.self_addr` in a member's file.
        addresses: Vec<HostPort>,
        /// `raft.password`.
        password: Option<Secret>,
        /// Their certificates; none: plain text.
        tls: Option<ClientTls>,
    },
}

/// Certificates in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Who must have signed the members' certificates.
    pub authority: PathBuf,
    /// What is shown to them, with its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl RouterConfig {
    /// Reads the section; none when something is wrong, which the findings then say.
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let before = findings.error_count();
        known(section, KEYS, findings);
        let ports = ports(section, findings);
        let seconds = |key: &str, otherwise: u64, findings: &mut Findings| {
            section.seconds(key, findings).unwrap_or(Duration::from_secs(otherwise))
        };
        let count = |key: &str, otherwise: usize, findings: &mut Findings| {
            section.count(key, findings).map_or(otherwise, |count| usize::try_from(count).unwrap_or(usize::MAX))
        };
        let config = Self {
            ports,
            sessions_max: count("sessions_max", 10_000, findings),
            held_max: count("held_max", 1_000, findings),
            hold_within: seconds("hold_within", 20, findings),
            connect_within: seconds("connect_within", 3, findings),
            startup_within: seconds("startup_within", 10, findings),
            idle_within: section.seconds("idle_within", findings).filter(|within| !within.is_zero()),
            drain_within: seconds("drain_within", 10, findings),
            lease: seconds("lease", 10, findings),
            workers: section
                .count("workers", findings)
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count > 0),
            metrics: section.host_port("metrics", None, findings),
        };
        for key in ["hold_within", "connect_within", "startup_within", "lease", "sessions_max"] {
            positive(section, key, findings);
        }
        (findings.error_count() == before).then_some(config)
    }
}

/// A zero here would refuse everybody.
fn positive(section: &Section<'_>, key: &str, findings: &mut Findings) {
    let Some(node) = section.get(key) else { return };
    if node.text().is_some_and(|text| text.trim().trim_matches(['0', '.']).is_empty()) {
        let path = section.path_of(key);
        findings.error(
            &path,
            &node.place,
            format!("{path} is 0: nothing would ever get through"),
            "give more, or remove it",
        );
    }
}

fn ports(section: &Section<'_>, findings: &mut Findings) -> Vec<RouterPort> {
    let path = section.path_of("ports");
    let items = match section.get("ports").map(|node| (&node.kind, node)) {
        Some((Kind::List(items), _)) if !items.is_empty() => items.as_slice(),
        other => {
            let place = other.map_or_else(|| section.place(), |(_, node)| node.place.clone());
            let help = "add 'ports:' with lines such as '- {listen: 0.0.0.0:5000, mode: read-write}'";
            findings.error(&path, &place, format!("{path}: expected a list of ports"), help);
            return Vec::new();
        }
    };
    let mut ports: Vec<RouterPort> = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let at = Section::at(item, &format!("{path}[{number}]"));
        let Some(port) = port(&at, item, findings) else { continue };
        if ports.iter().any(|other| other.name == port.name) {
            let message = format!("{}: there is another port '{}'", at.path(), port.name);
            findings.error(&at.path_of("name"), &item.place, message, "give it another name");
        }
        ports.push(port);
    }
    ports
}

fn port(section: &Section<'_>, node: &Node, findings: &mut Findings) -> Option<RouterPort> {
    known(section, PORT_KEYS, findings);
    let listen = listen(section, &node.place, findings)?;
    let (mode, place) = word(section, "mode", findings);
    let writes = match mode.as_deref() {
        Some("read-write") => true,
        Some("read-only") => false,
        _ => {
            let path = section.path_of("mode");
            findings.error(
                &path,
                &place,
                format!("{path}: expected read-write or read-only"),
                "add 'mode: read-write'",
            );
            return None;
        }
    };
    let (primary, place) = word(section, "primary", findings);
    let primary = match primary.as_deref() {
        None | Some("never") => RouterPrimary::Never,
        Some("last") => RouterPrimary::Last,
        Some("always") => RouterPrimary::Always,
        Some(_) => {
            let path = section.path_of("primary");
            findings.error(&path, &place, format!("{path}: expected never, last or always"), "correct it");
            return None;
        }
    };
    let flag = |key: &str, findings: &mut Findings| section.boolean(key, findings).unwrap_or(false);
    let mode = if writes { "read-write" } else { "read-only" };
    Some(RouterPort {
        name: section.text("name", findings).unwrap_or_else(|| format!("{mode} {listen}")),
        listen,
        writes,
        lag_max: section.count("lag_max", findings),
        site: section.text("site", findings),
        primary,
        accept_proxy: flag("accept_proxy", findings),
        send_proxy: flag("send_proxy", findings),
    })
}

fn word(section: &Section<'_>, key: &str, findings: &mut Findings) -> (Option<String>, Place) {
    let place = section.get(key).map_or_else(|| section.place(), |node| node.place.clone());
    (section.text(key, findings), place)
}

/// An address to listen at, or a socket of systemd's.
fn listen(section: &Section<'_>, place: &Place, findings: &mut Findings) -> Option<String> {
    let text = section.get("listen").and_then(Node::text).unwrap_or_default();
    if text.strip_prefix("systemd:").is_some_and(|name| !name.is_empty()) {
        return Some(text.to_owned());
    }
    if text.is_empty() {
        let path = section.path_of("listen");
        findings.error(&path, place, format!("{path} is missing"), "add a line such as 'listen: 0.0.0.0:5000'");
        return None;
    }
    let address = section.host_port("listen", None, findings)?;
    let everywhere = HostPort { host: "0.0.0.0".to_owned(), port: address.port };
    Some(if matches!(address.host.as_str(), "*" | "") { everywhere } else { address }.to_string())
}

impl ClientStore {
    pub(crate) fn read(root: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let etcd = root.section("etcd3", findings);
        if !etcd.entries().is_empty() {
            return EtcdConfig::read(&etcd, findings).map(Self::Etcd);
        }
        let raft = root.section("raft", findings);
        let mut addresses: Vec<HostPort> = raft.host_port("self_addr", None, findings).into_iter().collect();
        addresses.extend(raft.addresses("partner_addrs", None, findings));
        if addresses.is_empty() {
            let message = "no store is named: neither etcd3 nor raft.partner_addrs".to_owned();
            let help = "add 'raft:' with 'partner_addrs: [10.0.0.1:2380, ...]' and the members' password, or 'etcd3:' with 'hosts:'";
            findings.error("raft.partner_addrs", &root.place(), message, help);
            return None;
        }
        let mut file = |key: &str| raft.text(key, findings).map(PathBuf::from);
        let (certificate, key, authority) = (file("certfile"), file("keyfile"), file("cafile"));
        let trusted = authority.or_else(|| certificate.clone());
        let identity = certificate.map(|certificate| (certificate.clone(), key.unwrap_or(certificate)));
        let tls = trusted.map(|authority| ClientTls { authority, identity });
        Some(Self::Members { addresses, password: raft.text("password", findings).map(Secret::new), tls })
    }
}
