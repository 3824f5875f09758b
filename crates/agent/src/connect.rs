//! Opening the store, and what only our own store can tell.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_config::{ClientStore, EmbeddedConfig, EtcdConfig, LocalConfig, StoreConfig, StoreTls};
use pgbaton_core::observation::Listed;
use pgbaton_store::Store;
use pgbaton_store_embedded::{EmbeddedStore, Listen, OpenError, Options, PeerFact, ServerTls};
use pgbaton_store_etcd::{EtcdStore, Options as EtcdOptions, OptionsError, Srv, TlsFiles};
use pgbaton_types::{BootTime, MemberName};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock;
use crate::host_facts::{self, OwnFacts};
use crate::known_members::Members;
use crate::peers::Peers;

/// The members' store has one password, under whatever name.
const MEMBERS_USER: &str = "pgbaton";

/// The store with what is special to it.
#[derive(Clone)]
pub(crate) struct Connected {
    store: Kind,
    /// When the other hosts were last asked about themselves.
    asked: Arc<Mutex<Option<BootTime>>>,
    /// They are to be asked at once.
    wanted: Arc<Notify>,
}

#[derive(Clone)]
enum Kind {
    Embedded(Arc<EmbeddedStore>),
    /// It lists no hosts: those that it knew last are asked instead.
    Etcd {
        store: EtcdStore,
        hosts: Arc<Mutex<Vec<Listed>>>,
    },
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Embedded(#[from] OpenError),
    #[error("the section etcd3 cannot be used")]
    Etcd(#[from] OptionsError),
    #[error("{key} in the section raft: {} cannot be read", .path.display())]
    Certificates { key: &'static str, path: PathBuf, source: std::io::Error },
}

impl Connected {
    /// Opens the store that the configuration names.
    pub(crate) async fn open(local: &LocalConfig, own: &OwnFacts) -> Result<Self, ConnectError> {
        let store = match &local.store {
            StoreConfig::Embedded(config) => Kind::Embedded(EmbeddedStore::open(embedded(config, own.clone())?).await?),
            StoreConfig::Etcd(config) => Kind::Etcd { store: EtcdStore::new(&etcd(config))?, hosts: Arc::default() },
        };
        Ok(Self { store, asked: Arc::default(), wanted: Arc::default() })
    }

    /// The store itself.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match &self.store {
            Kind::Embedded(store) => Arc::<EmbeddedStore>::clone(store),
            Kind::Etcd { store, .. } => Arc::new(store.clone()),
        }
    }

    fn embedded(&self) -> Option<&EmbeddedStore> {
        match &self.store {
            Kind::Embedded(store) => Some(store),
            Kind::Etcd { .. } => None,
        }
    }

    /// What the other listed voters said about their hosts.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        match &self.store {
            Kind::Embedded(store) => {
                let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                store.peer_facts().into_iter().map(|fact| listed(fact, asked)).collect()
            }
            Kind::Etcd { hosts, .. } => hosts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// The hosts that a store knows that lists none. Whom nobody has asked yet has said nothing, and is waited for when the store forgets him.
    pub(crate) fn knows(&self, members: &Members) {
        if let Kind::Etcd { hosts, .. } = &self.store {
            let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
            let said = |address: &String| hosts.iter().find(|listed| listed.address == *address).cloned();
            *hosts = members.values().map(|address| said(address).unwrap_or_else(|| silent(address))).collect();
        }
    }

    /// Whether the members keep by themselves which hosts there are.
    pub(crate) fn lists_no_hosts(&self) -> bool {
        self.embedded().is_none()
    }

    /// Has them asked at once, or anew when that is under way.
    pub(crate) fn want_listed(&self) {
        self.wanted.notify_one();
    }

    /// Waits until they are to be asked, for `most` at most.
    pub(crate) async fn listed_wanted(&self, most: Duration) {
        // Either way it is time to ask.
        drop(timeout(most, self.wanted.notified()).await);
    }

    /// Asks them anew; `known` are those that a store knew last that lists none. Returns whom they know besides: until those are known as well,
    /// and have answered, they count as silent.
    pub(crate) async fn ask_listed(&self, peers: &Peers, known: Members, within: Duration) -> Members {
        let asked = clock::now();
        match &self.store {
            Kind::Embedded(store) => {
                store.refresh_peer_facts(within).await;
                *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
                Members::new()
            }
            Kind::Etcd { hosts, .. } => {
                let ask = |(member, address): (MemberName, String)| async move {
                    let answer = timeout(within, peers.ask_host(&member, &address)).await.ok().flatten();
                    let (host, members) = answer.unzip();
                    (Listed { address, asked: Some(asked), host }, members.unwrap_or_default())
                };
                let answers = futures::future::join_all(known.clone().into_iter().map(ask)).await;
                let (answers, named): (Vec<Listed>, Vec<Members>) = answers.into_iter().unzip();
                let mut told: Members = named.into_iter().flatten().collect();
                told.retain(|member, _| member != peers.me() && !known.contains_key(member));
                heard(&mut hosts.lock().unwrap_or_else(PoisonError::into_inner), answers, &told);
                told
            }
        }
    }

    /// Moves the store's own leadership away from the host that holds the lease.
    pub(crate) fn holds_lease(&self, holds: bool) {
        if let Some(embedded) = self.embedded() {
            embedded.prefer_not_leading(holds);
        }
    }

    /// Closes the store.
    pub(crate) async fn close(&self) {
        if let Some(embedded) = self.embedded() {
            embedded.shutdown().await;
        }
    }
}

pub(crate) fn embedded(config: &EmbeddedConfig, own: OwnFacts) -> Result<Options, ConnectError> {
    let mut options = Options::alone(&config.data_dir);
    if let Some(network) = &config.network {
        options.listen = Some(Listen::At(network.bind_addr.to_string()));
        options.self_address = network.self_addr.to_string();
        options.partner_addresses = network.partner_addrs.iter().map(ToString::to_string).collect();
        options.password = network.password.as_ref().map(|password| password.reveal().to_owned());
        options.tls = network.tls.as_ref().map(server_tls).transpose()?;
    }
    options.host_facts = Arc::new(move || own.get());
    Ok(options)
}

fn server_tls(files: &StoreTls) -> Result<ServerTls, ConnectError> {
    let read = |key: &'static str, path: &PathBuf| {
        std::fs::read(path).map_err(|source| ConnectError::Certificates { key, path: path.clone(), source })
    };
    Ok(ServerTls {
        certificate: read("certfile", &files.certificate)?,
        key: read("keyfile", &files.key)?,
        authority: files.authority.as_ref().map(|path| read("cafile", path)).transpose()?,
    })
}

/// How the store of this configuration is reached by others than its members; none: it listens nowhere.
pub fn client_options(config: &StoreConfig) -> Option<EtcdOptions> {
    match config {
        StoreConfig::Etcd(config) => Some(etcd(config)),
        StoreConfig::Embedded(config) => {
            let network = config.network.as_ref()?;
            let endpoints = std::iter::once(&network.self_addr).chain(&network.partner_addrs);
            Some(EtcdOptions {
                endpoints: endpoints.map(ToString::to_string).collect(),
                user: network.password.as_ref().map(|password| (MEMBERS_USER.to_owned(), password.reveal().to_owned())),
                // A member shows the same certificate as a client. Who has no authority trusts this one.
                tls: network.tls.as_ref().map(|tls| TlsFiles {
                    authority: Some(tls.authority.clone().unwrap_or_else(|| tls.certificate.clone())),
                    identity: Some((tls.certificate.clone(), tls.key.clone())),
                }),
                // Every member lists all.
                srv: None,
                discover: false,
            })
        }
    }
}

/// How a store is reached by somebody who is no member.
pub fn follower_options(store: &ClientStore) -> EtcdOptions {
    match store {
        ClientStore::Etcd(config) => etcd(config),
        ClientStore::Members { addresses, password, tls } => EtcdOptions {
            endpoints: addresses.iter().map(ToString::to_string).collect(),
            user: password.as_ref().map(|password| (MEMBERS_USER.to_owned(), password.reveal().to_owned())),
            tls: tls
                .as_ref()
                .map(|tls| TlsFiles { authority: Some(tls.authority.clone()), identity: tls.identity.clone() }),
            srv: None,
            discover: false,
        },
    }
}

fn etcd(config: &EtcdConfig) -> EtcdOptions {
    let tls = config.tls.as_ref();
    let srv = config.srv.as_ref();
    EtcdOptions {
        endpoints: config.endpoints.iter().map(ToString::to_string).collect(),
        srv: srv.map(|srv| Srv { domain: srv.domain.clone(), suffix: srv.suffix.clone(), name_server: None }),
        discover: !config.only_these,
        user: config.user.as_ref().map(|(name, password)| (name.clone(), password.reveal().to_owned())),
        tls: tls.map(|tls| TlsFiles { authority: tls.authority.clone(), identity: tls.identity.clone() }),
    }
}

/// Takes over the answers. Whoever became known since they were asked for stays, silent; so do those whom somebody told of, from now on.
fn heard(hosts: &mut Vec<Listed>, answers: Vec<Listed>, told: &Members) {
    for answer in answers {
        if let Some(host) = hosts.iter_mut().find(|host| host.address == answer.address) {
            *host = answer;
        }
    }
    for address in told.values() {
        if hosts.iter().all(|host| host.address != *address) {
            hosts.push(silent(address));
        }
    }
}

fn silent(address: &str) -> Listed {
    Listed { address: address.to_owned(), asked: None, host: None }
}

fn listed(fact: PeerFact, asked: Option<BootTime>) -> Listed {
    let host = fact.answer.ok().and_then(|introduction| host_facts::read(&introduction.host_facts?));
    Listed { address: fact.address, asked, host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_asked_counts_as_silent() {
        let member = |name: &str| -> (MemberName, String) { (name.parse().unwrap(), format!("http://{name}:8008")) };
        let facts = host_facts::read(br#"1{"promised":3,"primary_may_run":false,"lease_left_ms":0}"#);
        let answer = |name: &str| Listed { address: member(name).1, asked: Some(BootTime(5)), host: facts.clone() };
        let mut hosts = vec![silent(&member("b").1), silent(&member("new").1)];
        heard(&mut hosts, vec![answer("b"), answer("forgotten")], &Members::from([member("new"), member("c")]));
        assert_eq!(hosts, [answer("b"), silent(&member("new").1), silent(&member("c").1)]);
    }
}
