use std::path::{Path, PathBuf};

use pgbaton_types::MemberName;

use crate::diagnostic::Findings;
use crate::etcd::EtcdConfig;
use crate::local::absolute;
use crate::section::Section;
use crate::values::{HostPort, Secret};

/// The store that the members share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// Our own: what there is without a section for another one.
    Embedded(EmbeddedConfig),
    /// A real etcd: the section `etcd3`.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// The embedded store, if it is that.
    pub fn embedded(&self) -> Option<&EmbeddedConfig> {
        match self {
            Self::Embedded(config) => Some(config),
            Self::Etcd(_) => None,
        }
    }

    pub(crate) fn read(
        root: &Section<'_>,
        name: Option<&MemberName>,
        server: Option<&Path>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let etcd = root.section("etcd3", findings);
        if etcd.entries().is_empty() {
            return EmbeddedConfig::read(root, name, server, findings).map(Self::Embedded);
        }
        let raft = root.section("raft", findings);
        if raft.is_present() {
            let message = "there are sections for two stores: etcd3 and raft".to_owned();
            findings.error("raft", &raft.place(), message, "remove the one that this cluster does not use");
        }
        EtcdConfig::read(&etcd, findings).map(Self::Etcd)
    }
}

/// The embedded store of a member: the `raft` section, with Patroni's key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Where the voter keeps its log: `raft.data_dir`, else `<name>.raft` beside the data directory. Never inside the
    /// data directory, which clones and rewinds replace.
    pub data_dir: PathBuf,
    /// How the other voters reach this one, and where it listens; none for a cluster of one voter.
    pub network: Option<StoreNetwork>,
}

/// The addresses of the voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreNetwork {
    /// Where the other voters reach this one.
    pub self_addr: HostPort,
    /// Where this one listens; `self_addr` unless given.
    pub bind_addr: HostPort,
    /// The other voters, without this one, sorted.
    pub partner_addrs: Vec<HostPort>,
    /// What voters show each other; always there when an address is beyond loopback.
    pub password: Option<Secret>,
    /// How clients of etcd's protocol are served; none: in plain text.
    pub tls: Option<StoreTls>,
}

/// Certificates with which the store serves clients: `raft.certfile`, `raft.keyfile`, `raft.cafile`, in PEM format. Not among Patroni's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTls {
    /// The own certificate.
    pub certificate: PathBuf,
    /// Its key; may be in the same file.
    pub key: PathBuf,
    /// The authority that must have signed a client's certificate; none: clients need none.
    pub authority: Option<PathBuf>,
}

impl EmbeddedConfig {
    /// Whether this member is the only voter.
    pub fn is_single(&self) -> bool {
        self.network.as_ref().is_none_or(|network| network.partner_addrs.is_empty())
    }

    pub(crate) fn read(
        root: &Section<'_>,
        name: Option<&MemberName>,
        server: Option<&Path>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let section = root.section("raft", findings);
        let network = if section.is_present() { StoreNetwork::read(&section, findings) } else { Ok(None) };
        let data_dir = match section.text("data_dir", findings) {
            Some(text) => absolute(&section, "data_dir", &text, findings),
            None => server.and_then(Path::parent).zip(name).map(|(parent, name)| parent.join(format!("{name}.raft"))),
        };
        if let (Some(ours), Some(server)) = (&data_dir, server)
            && ours.starts_with(server)
        {
            let path = section.path_of("data_dir");
            let place = section.get("data_dir").map(|node| node.place.clone()).unwrap_or_default();
            let message = format!("{path} is inside postgresql.data_dir, which a new clone replaces");
            findings.error(&path, &place, message, "choose a directory beside it");
            return None;
        }
        Some(Self { data_dir: data_dir?, network: network.ok()? })
    }
}

/// A finding was reported; there is nothing to read further.
struct Reported;

impl StoreNetwork {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Result<Option<Self>, Reported> {
        let self_addr = section.host_port("self_addr", None, findings);
        let bind_addr = section.host_port("bind_addr", None, findings);
        let mut partner_addrs = section.addresses("partner_addrs", None, findings);
        let password = section.text("password", findings).map(Secret::new);
        let Some(self_addr) = self_addr else {
            let tls = ["certfile", "keyfile", "cafile"].iter().any(|key| section.get(key).is_some());
            if section.get("self_addr").is_none() && partner_addrs.is_empty() && bind_addr.is_none() && !tls {
                return Ok(None);
            }
            if section.get("self_addr").is_none() {
                let path = section.path_of("self_addr");
                let help = "add a line such as 'self_addr: 10.0.0.1:2380', an address that the partners can reach";
                findings.error(&path, &section.place(), format!("{path} is missing"), help);
            }
            return Err(Reported);
        };
        if self_addr.is_wildcard() {
            let path = section.path_of("self_addr");
            let place = section.get("self_addr").map(|node| node.place.clone()).unwrap_or_default();
            let message = format!("{path} is {self_addr}, an address that nobody can connect to");
            findings.error(&path, &place, message, "give the address of this host, and this one as bind_addr");
            return Err(Reported);
        }
        partner_addrs.retain(|partner| *partner != self_addr);
        partner_addrs.sort();
        partner_addrs.dedup();
        let bind_addr = bind_addr.unwrap_or_else(|| self_addr.clone());
        let beyond = [&self_addr, &bind_addr].into_iter().chain(&partner_addrs).find(|address| !address.is_loopback());
        if let (Some(address), None) = (beyond, &password) {
            let path = section.path_of("password");
            let message = format!("{path} is missing, and {address} can be reached from other hosts");
            let help = "add 'password: ...' to the raft section, the same on all members";
            findings.error(&path, &section.place(), message, help);
            return Err(Reported);
        }
        let tls = StoreTls::read(section, findings)?;
        Ok(Some(Self { self_addr, bind_addr, partner_addrs, password, tls }))
    }
}

impl StoreTls {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Result<Option<Self>, Reported> {
        let mut file = |key: &str| section.text(key, findings).map(PathBuf::from);
        let (certificate, key, authority) = (file("certfile"), file("keyfile"), file("cafile"));
        let Some(certificate) = certificate else {
            let Some(given) =
                ["keyfile", "cafile"].into_iter().find(|key| section.get(key).is_some_and(|node| !node.is_falsy()))
            else {
                return Ok(None);
            };
            let (path, place) =
                (section.path_of(given), section.get(given).map(|node| node.place.clone()).unwrap_or_default());
            let message = format!("{path} is given, but no raft.certfile: the store would serve clients in plain text");
            findings.error(&path, &place, message, "add 'certfile: ...' to the raft section");
            return Err(Reported);
        };
        Ok(Some(Self { key: key.unwrap_or_else(|| certificate.clone()), certificate, authority }))
    }
}
