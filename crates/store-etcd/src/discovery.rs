//! Endpoints that nobody wrote down: DNS names them, or the members of the store know each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use pgbaton_etcd_proto::etcdserverpb::MemberListRequest;
use pgbaton_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use pgbaton_net::HttpClient;
use pgbaton_types::chain;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::call::Caller;
use crate::endpoints::{Place, Reached};
use crate::options::{Options, Srv};

/// How often endpoints are looked for while all goes well: as often as members of a store are exchanged, generously.
const EVERY: Duration = Duration::from_mins(1);

/// The least pause between two looks, while endpoints fail.
const AT_LEAST: Duration = Duration::from_secs(5);

/// How long one endpoint, or a name server, may take to answer.
const ASK_TIME: Duration = Duration::from_secs(2);

/// Patroni's order: what serves clients first, with TLS first; then the members' own ports, which are asked for their clients'.
const SERVICES: [&str; 6] = ["-client-ssl", "-client", "-ssl", "", "-server-ssl", "-server"];

/// Looks for endpoints.
#[derive(Debug)]
pub(crate) struct Discovery {
    listed: Vec<Place>,
    srv: Option<Srv>,
    /// The members are asked for each other.
    members: bool,
    found: Mutex<Found>,
}

/// What the looks have found so far.
#[derive(Debug, Clone, Default)]
struct Found {
    by_dns: Vec<Place>,
    members: Vec<Place>,
    /// What was wrong last, which is said once.
    problem: Option<String>,
}

/// Why DNS named no endpoint.
#[derive(Debug, thiserror::Error)]
enum DnsError {
    #[error("the name servers cannot be asked")]
    Resolver(#[source] NetError),
    #[error("no name server answered for {name}")]
    Silent {
        name: String,
        #[source]
        source: NetError,
    },
    #[error("DNS has no record SRV for {name}, nor for any of etcd's other names there")]
    NoRecord { name: String },
    #[error("the members that DNS names for {name} do not tell where they serve clients")]
    NoClientPort { name: String },
}

/// A member as its peers' port tells it (etcd, `/members`).
#[derive(Deserialize)]
struct PeersMember {
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
}

impl Discovery {
    /// None if the endpoints are those that are written down.
    pub(crate) fn new(options: &Options) -> Option<Self> {
        (options.discover || options.srv.is_some()).then(|| Self {
            listed: options.places(),
            srv: options.srv.clone(),
            members: options.discover,
            found: Mutex::default(),
        })
    }

    /// Looks again and again, as long as somebody uses the store.
    pub(crate) async fn run(&self, caller: Weak<Caller>) {
        loop {
            let Some(in_use) = caller.upgrade() else { return };
            self.look(&in_use).await;
            let wanted = in_use.endpoints().wanted();
            drop(in_use);
            // waits: for the next look, which a failure brings forward
            sleep(AT_LEAST).await;
            // Either way it is time to look.
            drop(timeout(EVERY.saturating_sub(AT_LEAST), wanted.notified()).await);
        }
    }

    /// Looks once.
    pub(crate) async fn look(&self, caller: &Caller) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut problem = None;
        if let Some(srv) = &self.srv {
            match by_dns(srv).await {
                Ok(places) => found.by_dns = places,
                // What was found before is better than nothing.
                Err(error) => problem = Some(chain(&error)),
            }
        }
        self.tell(caller, &found);
        if self.members {
            if let Some(members) = self.ask_members(caller).await {
                found.members = members;
            }
            self.tell(caller, &found);
        }
        if let Some(problem) = &problem {
            caller.endpoints().none_because(problem.clone());
            if found.problem.as_ref() != Some(problem) {
                tracing::warn!(problem, "the store's endpoints cannot be looked up");
            }
        }
        found.problem = problem;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn tell(&self, caller: &Caller, found: &Found) {
        let places = self.listed.iter().chain(&found.by_dns).chain(&found.members).cloned().collect();
        let told = caller.endpoints().set(places, |error| {
            tracing::warn!(%error, "an endpoint that was found cannot be used");
            Ok::<_, std::convert::Infallible>(())
        });
        match told {
            Ok(()) => {}
        }
    }

    /// Where the members serve clients that no other endpoint reaches; none if nobody told. Only who answers from there as the same store
    /// counts: an address such as `localhost` may be another one here.
    async fn ask_members(&self, caller: &Caller) -> Option<Vec<Place>> {
        let known = caller.endpoints().all();
        let mut told = None;
        for one in &known {
            let answer = caller.ask(one, ASK_TIME, |route| async move {
                let request = route.request(MemberListRequest { linearizable: false });
                Ok(ClusterClient::new(route.channel).member_list(request).await?.into_inner())
            });
            told = answer.await;
            if told.is_some() {
                break;
            }
        }
        let told = told?;
        let cluster = told.header.as_ref()?.cluster_id;
        let others = told.members.into_iter().flat_map(|member| member.client_ur_ls);
        let others: Vec<Place> = others.filter_map(|url| Place::of_url(&url)).collect();
        let listed = |one: &Reached| self.listed.contains(&one.place);
        let reached_by_list =
            join_all(known.iter().filter(|one| listed(one)).map(|one| who(caller, one))).await.into_iter().flatten();
        let mut covered: BTreeSet<u64> = reached_by_list.map(|(_, member)| member).collect();
        let mut found = Vec::new();
        for place in others {
            let Some(one) = caller.endpoints().reach(&place) else { continue };
            if known.iter().any(|known| known.place == place && !listed(known)) {
                // It was the same store when it was found.
                found.push(place);
            } else if let Some((its_cluster, member)) = who(caller, &one).await
                && its_cluster == cluster
                && covered.insert(member)
            {
                found.push(place);
            }
        }
        Some(found)
    }
}

/// Which store, and which member of it, answers there.
async fn who(caller: &Caller, one: &Reached) -> Option<(u64, u64)> {
    let header = caller.status_of(one, ASK_TIME).await?.header?;
    Some((header.cluster_id, header.member_id))
}

async fn by_dns(srv: &Srv) -> Result<Vec<Place>, DnsError> {
    let resolver = resolver(srv.name_server).map_err(DnsError::Resolver)?;
    let names = SERVICES.map(|service| match &srv.suffix {
        Some(suffix) => format!("_etcd{service}-{suffix}._tcp.{}.", srv.domain),
        None => format!("_etcd{service}._tcp.{}.", srv.domain),
    });
    let answers = join_all(names.iter().map(|name| timeout(ASK_TIME * 2, resolver.srv_lookup(name.as_str())))).await;
    let mut silent = None;
    for ((service, name), answer) in SERVICES.into_iter().zip(&names).zip(answers) {
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_no_records_found() => continue,
            Ok(Err(source)) => {
                silent.get_or_insert(DnsError::Silent { name: name.clone(), source });
                continue;
            }
            Err(_) => {
                silent.get_or_insert(DnsError::Silent { name: name.clone(), source: NetError::Timeout });
                continue;
            }
        };
        let mut targets: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv.priority, u16::MAX - srv.weight, srv.target.to_utf8(), srv.port)),
                _ => None,
            })
            .collect();
        targets.sort();
        let secure = service.ends_with("-ssl");
        let addresses = targets.into_iter().map(|(_, _, host, port)| format!("{}:{port}", host.trim_end_matches('.')));
        let places: Vec<Place> = addresses.map(|address| Place { address, secure }).collect();
        if places.is_empty() {
            continue;
        }
        return if service.starts_with("-server") { of_peers(&places, name).await } else { Ok(places) };
    }
    Err(silent.unwrap_or_else(|| DnsError::NoRecord { name: names[1].clone() }))
}

/// Asks members at their peers' ports where they serve clients.
async fn of_peers(peers: &[Place], name: &str) -> Result<Vec<Place>, DnsError> {
    let client = HttpClient::new();
    // With TLS peers let in only whom their own authority knows.
    for peer in peers.iter().filter(|peer| !peer.secure) {
        let Ok(answer) = client.get(&format!("http://{}/members", peer.address), ASK_TIME).await else { continue };
        let members: Vec<PeersMember> = serde_json::from_slice(&answer.body).unwrap_or_default();
        let urls = members.into_iter().flat_map(|member| member.client_urls);
        let places: Vec<Place> = urls.filter_map(|url| Place::of_url(&url)).collect();
        if !places.is_empty() {
            return Ok(places);
        }
    }
    Err(DnsError::NoClientPort { name: name.to_owned() })
}

fn resolver(name_server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match name_server {
        None => TokioResolver::builder_tokio()?,
        Some(at) => {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = at.port();
            }
            let server = NameServerConfig::new(at.ip(), true, connections);
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    builder.options_mut().timeout = ASK_TIME;
    builder.build()
}
