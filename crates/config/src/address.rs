use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Findings};
use crate::document::Kind;
use crate::files::words;
use crate::local::absolute;
use crate::section::{Section, known};

/// Keys of the section `address`.
const KEYS: &[&str] = &[
    "interface",
    "addresses",
    "managed_by",
    "announce_interval",
    "state_file",
    "notify",
    "notify_master",
    "notify_backup",
    "notify_fault",
    "notify_stop",
    "priority",
    "upscript",
    "downscript",
    "xparam",
    "within",
];
/// Those of them that make a difference by themselves.
const DOES_SOMETHING: &[&str] =
    &["addresses", "state_file", "notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"];
/// How often an address is announced while nothing happens.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a script may take that says nothing of it.
const WITHIN: Duration = Duration::from_secs(10);
/// keepalived's own default.
const PRIORITY: u8 = 100;
/// The longest name of an interface that Linux has (`IFNAMSIZ`, less its final zero).
const INTERFACE_BYTES_MAX: usize = 15;

/// The section `address`: the virtual address of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressConfig {
    /// The interface; empty when no address is given.
    pub interface: String,
    /// The addresses, each with the length of its prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The scripts put the addresses on the interface and take them away.
    pub by_scripts: bool,
    /// How often they are announced while nothing happens.
    pub announce_interval: Duration,
    /// A file for keepalived's `track_file`.
    pub state_file: Option<PathBuf>,
    /// keepalived's scripts, by the keys' names.
    pub notify: Option<Vec<String>>,
    /// For the state MASTER.
    pub notify_master: Option<Vec<String>>,
    /// For the state BACKUP.
    pub notify_backup: Option<Vec<String>>,
    /// For the state FAULT.
    pub notify_fault: Option<Vec<String>>,
    /// For the end of the agent.
    pub notify_stop: Option<Vec<String>>,
    /// The last argument of `notify`.
    pub priority: u8,
    /// UCARP's scripts.
    pub upscript: Option<Vec<String>>,
    /// For a host that loses the address.
    pub downscript: Option<Vec<String>>,
    /// Their last argument.
    pub xparam: Option<String>,
    /// How long each script may take.
    pub within: Duration,
}

impl AddressConfig {
    /// Reads the section; `own_hosts` are where others reach this member. A member without its virtual address is better than no member: what is wrong in it becomes warnings, and `Err` with
    /// the first of them; then the section has no effect.
    ///
    /// # Errors
    /// The first mistake.
    pub(crate) fn read(
        root: &Section<'_>,
        own_hosts: &[&str],
        findings: &mut Findings,
    ) -> Result<Option<Self>, String> {
        let mut own = Findings::default();
        let section = root.section("address", &mut own);
        let config = Self::read_section(&section, &mut own);
        config.check_hosts(&section, own_hosts, &mut own);
        let mistakes: Vec<Diagnostic> = own.into_list();
        for mistake in &mistakes {
            let message = format!("{}; there is no virtual address", mistake.message);
            findings.warning(&mistake.path, &mistake.place(), message, &mistake.help);
        }
        match mistakes.first() {
            Some(mistake) => Err(mistake.summary()),
            None => Ok(section.is_present().then_some(config)),
        }
    }

    fn read_section(section: &Section<'_>, findings: &mut Findings) -> Self {
        known(section, KEYS, findings);
        let mut script = |key: &str| words(section, key, findings).ok().flatten();
        let [notify, notify_master, notify_backup, notify_fault, notify_stop, upscript, downscript] = [
            script("notify"),
            script("notify_master"),
            script("notify_backup"),
            script("notify_fault"),
            script("notify_stop"),
            script("upscript"),
            script("downscript"),
        ];
        let state_file = section.text("state_file", findings);
        let seconds = |key: &str, otherwise: Duration, findings: &mut Findings| {
            section.seconds(key, findings).filter(|time| !time.is_zero()).unwrap_or(otherwise)
        };
        let addresses = addresses(section, findings);
        let config = Self {
            interface: interface(section, !addresses.is_empty(), findings),
            addresses,
            by_scripts: by_scripts(section, upscript.is_some() && downscript.is_some(), findings),
            announce_interval: seconds("announce_interval", ANNOUNCE_INTERVAL, findings),
            state_file: state_file.and_then(|path| absolute(section, "state_file", &path, findings)),
            priority: priority(section, findings),
            xparam: section.text("xparam", findings),
            within: seconds("within", WITHIN, findings),
            notify,
            notify_master,
            notify_backup,
            notify_fault,
            notify_stop,
            upscript,
            downscript,
        };
        Self::check(section, findings);
        config
    }

    /// A host's own address would be taken away whenever it does not lead.
    fn check_hosts(&self, section: &Section<'_>, own_hosts: &[&str], findings: &mut Findings) {
        let place = section.get("addresses").map(|node| node.place.clone()).unwrap_or_default();
        let is_own = |ip: &IpAddr| own_hosts.iter().any(|host| host.parse() == Ok(*ip));
        for (number, (ip, _)) in self.addresses.iter().enumerate().filter(|(_, (ip, _))| is_own(ip)) {
            let path = format!("{}[{number}]", section.path_of("addresses"));
            let message = format!("{path}: {ip} is this member's own address, by which the others know it");
            findings.error(&path, &place, message, "give an address that no host has of its own");
        }
    }

    /// A section that asks for nothing is a mistake.
    fn check(section: &Section<'_>, findings: &mut Findings) {
        let given = |key: &&'static str| section.get(key).is_some_and(|node| !node.is_falsy());
        if section.is_present() && !DOES_SOMETHING.iter().any(given) {
            let path = section.path_of("addresses");
            let help = "add a line such as 'addresses: [10.0.0.9/24]'";
            findings.error(&path, &section.place(), format!("{path} is missing"), help);
        }
    }
}

fn addresses(section: &Section<'_>, findings: &mut Findings) -> Vec<(IpAddr, u8)> {
    let path = section.path_of("addresses");
    let Some(node) = section.get("addresses").filter(|node| !node.is_falsy()) else { return Vec::new() };
    let Kind::List(items) = &node.kind else {
        let message = format!("{path}: expected a list of addresses");
        findings.error(&path, &node.place, message, "write [10.0.0.9/24]");
        return Vec::new();
    };
    let mut addresses: Vec<(IpAddr, u8)> = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let text = item.text().unwrap_or_default();
        match address(text) {
            Some((ip, _)) if addresses.iter().any(|(other, _)| *other == ip) => {
                findings.error(&path, &item.place, format!("{path}: {ip} is in the list twice"), "remove one of them");
            }
            Some(address) => addresses.push(address),
            None => {
                let message = format!("{path}: '{text}' is no address of a host with the length of its prefix");
                findings.error(&path, &item.place, message, "write it as 10.0.0.9/24 or fd00::9/64");
            }
        }
    }
    addresses
}

/// An address that a host can have; without a prefix it stands for itself alone.
fn address(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = ip.parse().ok()?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= longest))?;
    let host = !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback());
    host.then_some((ip, prefix))
}

fn interface(section: &Section<'_>, needed: bool, findings: &mut Findings) -> String {
    let path = section.path_of("interface");
    let Some(name) = section.text("interface", findings) else {
        if needed {
            let help = "add a line such as 'interface: eth0'";
            findings.error(&path, &section.place(), format!("{path} is missing"), help);
        }
        return String::new();
    };
    if name.len() > INTERFACE_BYTES_MAX
        || name.contains(|character: char| character == '/' || character.is_whitespace())
    {
        let place = section.get("interface").map(|node| node.place.clone()).unwrap_or_default();
        let message = format!("{path}: '{name}' cannot be the name of an interface");
        findings.error(&path, &place, message, "`ip link` shows the names of those there are");
    }
    name
}

fn by_scripts(section: &Section<'_>, both: bool, findings: &mut Findings) -> bool {
    let path = section.path_of("managed_by");
    let place = section.get("managed_by").map_or_else(|| section.place(), |node| node.place.clone());
    match section.text("managed_by", findings).as_deref() {
        None | Some("pgbaton") => false,
        Some("scripts") if both => true,
        Some("scripts") => {
            let message = format!("{path} is scripts, but one that adds the address or one that removes it is missing");
            findings.error(&path, &place, message, "give both upscript and downscript");
            true
        }
        Some(_) => {
            findings.error(&path, &place, format!("{path}: expected pgbaton or scripts"), "correct it");
            false
        }
    }
}

fn priority(section: &Section<'_>, findings: &mut Findings) -> u8 {
    let Some(priority) = section.count("priority", findings) else { return PRIORITY };
    u8::try_from(priority).unwrap_or_else(|_| {
        let path = section.path_of("priority");
        let place = section.get("priority").map(|node| node.place.clone()).unwrap_or_default();
        findings.error(&path, &place, format!("{path}: expected a number from 0 to 255"), "correct it");
        PRIORITY
    })
}
