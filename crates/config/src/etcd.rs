use std::path::PathBuf;

use crate::diagnostic::Findings;
use crate::document::Node;
use crate::section::Section;
use crate::values::{HostPort, Secret, parse_host_port};

/// The port on which etcd serves clients.
const CLIENT_PORT: u16 = 2379;

/// The domain below which DNS names endpoints: Patroni's name for it, then its older ones.
const SRV: [&str; 3] = ["srv", "discovery_srv", "srv_domain"];

/// A real etcd as the store: the section `etcd3`, with Patroni's key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Its endpoints in the order written, the first is asked first; empty only if DNS names them.
    pub endpoints: Vec<HostPort>,
    /// Endpoints are looked up by DNS.
    pub srv: Option<EtcdSrv>,
    /// Only these endpoints are used: `use_proxies`, or `proxy`.
    pub only_these: bool,
    /// Name and password.
    pub user: Option<(String, Secret)>,
    /// How it is spoken to; none: in plain text.
    pub tls: Option<EtcdTls>,
}

/// Where DNS names endpoints by records SRV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSrv {
    /// Below this domain: `srv`.
    pub domain: String,
    /// Of several etcds there: `srv_suffix`.
    pub suffix: Option<String>,
}

/// Certificates in PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authorities that may have signed etcd's certificate: `cacert`.
    pub authority: Option<PathBuf>,
    /// The own certificate and its key: `cert`, `key`.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What a URL of an endpoint says.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    secure: Option<bool>,
    user: Option<(String, String)>,
    address: HostPort,
}

impl EtcdConfig {
    /// Reads the section; none when it is absent, or something is missing or wrong, which the findings then say.
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let before = findings.error_count();
        let urls: Vec<Url> = ["url", "proxy"].iter().filter_map(|key| url(section, key, findings)).collect();
        let mut endpoints: Vec<HostPort> = urls.iter().map(|url| url.address.clone()).collect();
        endpoints.extend(section.host_port("host", Some(CLIENT_PORT), findings));
        endpoints.extend(section.addresses("hosts", Some(CLIENT_PORT), findings));
        let mut seen = std::collections::BTreeSet::new();
        endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
        let srv = srv(section, findings);
        let only_these = section.boolean("use_proxies", findings).unwrap_or(false) || section.get("proxy").is_some();
        if endpoints.is_empty() && srv.is_none() && findings.error_count() == before {
            let path = section.path_of("hosts");
            let help = "add a line such as 'hosts: 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379'";
            findings.error(&path, &section.place(), format!("{path} is missing: no endpoint is named"), help);
        }
        let user = user(section, &urls, findings);
        let tls = tls(section, &urls, srv.is_some(), findings);
        (findings.error_count() == before).then_some(Self { endpoints, srv, only_these, user, tls })
    }
}

fn srv(section: &Section<'_>, findings: &mut Findings) -> Option<EtcdSrv> {
    let domain = SRV.iter().find_map(|key| section.text(key, findings));
    let suffix = section.text("srv_suffix", findings);
    match domain {
        Some(domain) => Some(EtcdSrv { domain: domain.trim_end_matches('.').to_owned(), suffix }),
        None => {
            if suffix.is_some() {
                let path = section.path_of("srv");
                let message = format!("{path} is missing, although there is a srv_suffix");
                findings.error(&path, &section.place(), message, "name the domain, or take srv_suffix out");
            }
            None
        }
    }
}

fn user(section: &Section<'_>, urls: &[Url], findings: &mut Findings) -> Option<(String, Secret)> {
    let from_url = urls.iter().find_map(|url| url.user.clone());
    let (name, password) = (section.text("username", findings), section.text("password", findings));
    match (name, password) {
        (Some(name), Some(password)) => Some((name, Secret::new(password))),
        (None, None) => from_url.map(|(name, password)| (name, Secret::new(password))),
        (name, _) => {
            let (there, missing) = if name.is_some() { ("username", "password") } else { ("password", "username") };
            let path = section.path_of(missing);
            let message = format!("{path} is missing, although there is a {there}");
            findings.error(&path, &section.place(), message, "give both, or neither");
            None
        }
    }
}

fn tls(section: &Section<'_>, urls: &[Url], by_dns: bool, findings: &mut Findings) -> Option<EtcdTls> {
    let secure = match section.text("protocol", findings).as_deref() {
        Some("https") => true,
        Some("http") | None => urls.iter().any(|url| url.secure == Some(true)),
        Some(_) => {
            let path = section.path_of("protocol");
            let place = section.get("protocol").map(|node| node.place.clone()).unwrap_or_default();
            findings.error(&path, &place, format!("{path}: expected http or https"), "correct it");
            false
        }
    };
    let file = |key: &str, findings: &mut Findings| section.text(key, findings).map(PathBuf::from);
    let (authority, certificate, key) = (file("cacert", findings), file("cert", findings), file("key", findings));
    let files_given = authority.is_some() || certificate.is_some();
    if !secure && by_dns {
        // Whether TLS is spoken is for DNS to say; these are for that case.
        return files_given.then(|| files(authority, certificate, key));
    }
    if !secure {
        for given in ["cacert", "cert", "key"] {
            if let Some(node) = section.get(given).filter(|node| !node.is_falsy()) {
                let path = section.path_of(given);
                let message = format!("{path} is given, but etcd is spoken to in plain text");
                findings.error(&path, &node.place, message, "add 'protocol: https'");
            }
        }
        return None;
    }
    Some(files(authority, certificate, key))
}

fn files(authority: Option<PathBuf>, certificate: Option<PathBuf>, key: Option<PathBuf>) -> EtcdTls {
    // As in Patroni, the key may be in the certificate's file.
    let identity = certificate.map(|certificate| (certificate.clone(), key.unwrap_or(certificate)));
    EtcdTls { authority, identity }
}

fn url(section: &Section<'_>, key: &str, findings: &mut Findings) -> Option<Url> {
    let text = section.text(key, findings)?;
    let parsed = parse_url(&text);
    if parsed.is_none() {
        let path = section.path_of(key);
        let place = section.get(key).map(|node: &Node| node.place.clone()).unwrap_or_default();
        // Not the text: it may hold a password.
        let message = format!("{path}: expected a URL such as https://10.0.0.1:2379");
        findings.error(&path, &place, message, "correct it");
    }
    parsed
}

fn parse_url(text: &str) -> Option<Url> {
    let (secure, rest) = match text.split_once("://") {
        Some(("https", rest)) => (Some(true), rest),
        Some(("http", rest)) => (Some(false), rest),
        Some(_) => return None,
        None => (None, text),
    };
    let rest = rest.split('/').next()?;
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => {
            (Some(user.split_once(':').map(|(name, word)| (name.to_owned(), word.to_owned()))?), address)
        }
        None => (None, rest),
    };
    Some(Url { secure, user, address: parse_host_port(address, Some(CLIENT_PORT))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_who_and_where() {
        let address = |host: &str, port| HostPort { host: host.to_owned(), port };
        assert_eq!(
            parse_url("https://me:my@word@10.0.0.1:2380/x"),
            Some(Url {
                secure: Some(true),
                user: Some(("me".into(), "my@word".into())),
                address: address("10.0.0.1", 2380)
            })
        );
        assert_eq!(parse_url("[::1]"), Some(Url { secure: None, user: None, address: address("::1", 2379) }));
        assert_eq!(parse_url("ftp://a"), None);
        assert_eq!(parse_url("http://onlyname@a"), None);
    }
}
