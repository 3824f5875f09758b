use std::collections::BTreeMap;

use pgbaton_api::{Baton, ServerAt};
use serde::Serialize;
use serde_json::Value;

/// What a template may use. Everything that changes all the time, such as a standby's lag, is left out: a file changes when the cluster does.
///
/// | name | what it is |
/// |---|---|
/// | `scope` | the name of the cluster |
/// | `epoch` | the number of the reign; none: nobody holds the lease |
/// | `primary` | the primary; none: there is none at the moment |
/// | `standbys` | the other servers that run, by name |
/// | `members` | all members of the cluster, by name, whether their servers run or not |
/// | `vars` | what the configuration gives to this file |
///
/// A server has `name`, `host`, `port`, `address` (`host:port`), `api` (`http://host:port`; none: not known), `api_host`, `api_port`, `timeline`,
/// `primary` (on or off), `tags`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Context {
    scope: String,
    epoch: Option<u64>,
    primary: Option<Server>,
    standbys: Vec<Server>,
    members: Vec<Server>,
    vars: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Server {
    name: String,
    host: String,
    port: u16,
    address: String,
    api: Option<String>,
    api_host: Option<String>,
    api_port: Option<u16>,
    timeline: Option<u32>,
    primary: bool,
    tags: serde_json::Map<String, Value>,
}

impl Context {
    /// The document for a cluster and what is given to one file.
    pub fn new(baton: &Baton, vars: BTreeMap<String, Value>) -> Self {
        let primary = baton.primary.as_ref().map(|server| Server::new(server, true));
        let standbys: Vec<Server> = baton.standbys.iter().map(|server| Server::new(server, false)).collect();
        let others = baton.others.iter().map(|server| Server::new(server, false));
        let mut members: Vec<Server> = primary.iter().chain(&standbys).cloned().chain(others).collect();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Self { scope: baton.scope.clone(), epoch: baton.epoch.map(|epoch| epoch.0), primary, standbys, members, vars }
    }

    /// The reign that it is of.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether there is a primary.
    pub fn has_primary(&self) -> bool {
        self.primary.is_some()
    }
}

impl Server {
    fn new(server: &ServerAt, primary: bool) -> Self {
        let at = server.api.as_deref().and_then(|url| url.split_once("://")).and_then(|(_, at)| at.rsplit_once(':'));
        Self {
            name: server.name.to_string(),
            host: server.host.clone(),
            port: server.port,
            address: server.address(),
            api: server.api.clone(),
            api_host: at.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()),
            api_port: at.and_then(|(_, port)| port.parse().ok()),
            timeline: server.timeline.map(|timeline| timeline.0),
            primary,
            tags: server.tags.clone(),
        }
    }
}
