use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pgbaton_net::{HttpClient, HttpError, HttpResponse};
use serde_json::Value;

use crate::cli::arguments::Global;
use crate::cli::{ClusterView, Failure};

/// How long a member may take to say how things are.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Where the configuration is looked for when nothing is given, in this order.
const CONFIG_VARIABLES: [&str; 2] = ["PGBATON_CONFIG_FILE", "PATRONICTL_CONFIG_FILE"];

/// The variable with addresses, as `--url` takes them.
const URL_VARIABLE: &str = "PGBATON_URL";

/// Name and password for requests that change something, when no configuration is given (Patroni's names).
const CREDENTIAL_VARIABLES: [(&str, &str); 2] =
    [("PATRONI_CTL_USERNAME", "PATRONI_CTL_PASSWORD"), ("PATRONI_RESTAPI_USERNAME", "PATRONI_RESTAPI_PASSWORD")];

/// The configuration that the environment names.
pub(crate) fn config_in(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let named = |name| environment.get(name).filter(|value| !value.is_empty());
    CONFIG_VARIABLES.into_iter().find_map(named).map(PathBuf::from)
}

/// The way to the cluster: the REST APIs that are known at first, and all members as soon as one has answered.
pub(crate) struct Members {
    http: HttpClient,
    seeds: Vec<String>,
    /// The REST API of the member that the configuration is of.
    own: Option<String>,
    scope: Option<String>,
}

impl Members {
    /// Finds out whom to ask.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let named = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let mut urls = global.url.clone();
        let mut config = global.config_file.clone();
        if urls.is_empty() && config.is_none() {
            config = config_in(&environment);
            urls = named(URL_VARIABLE).map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default();
        }
        let mut seeds: Vec<String> = urls.iter().map(|url| base_of(url)).collect();
        let (mut scope, mut own) = (None, None);
        let mut credentials = CREDENTIAL_VARIABLES
            .into_iter()
            .find_map(|(name, password)| named(name).cloned().zip(named(password).cloned()));
        if let Some(path) = &config {
            let local = pgbaton_config::load(Some(path), &environment)?.local;
            let address = format!("http://{}", local.restapi.connect_address);
            seeds.push(address.clone());
            own = Some(address);
            // The other members' APIs are known to the store only; on most clusters they have the same port.
            let port = local.restapi.connect_address.port;
            for partner in local
                .store
                .embedded()
                .and_then(|store| store.network.as_ref())
                .iter()
                .flat_map(|network| &network.partner_addrs)
            {
                let guess = pgbaton_config::HostPort { host: partner.host.clone(), port };
                seeds.push(format!("http://{guess}"));
            }
            seeds.dedup();
            scope = Some(local.scope);
            if let Some(ours) = local.peer_credentials {
                credentials = Some((ours.username, ours.password.reveal().to_owned()));
            }
        }
        if seeds.is_empty() {
            return Err(Failure::text(
                "which cluster? Give a member's configuration with -c FILE, or a member's REST API with --url http://HOST:PORT",
            ));
        }
        let mut http = HttpClient::new();
        if let Some((user, password)) = credentials {
            let refused = || Failure::text("the user name or password for the REST API cannot stand in a header");
            http = http.with_basic_auth(&user, &password).ok_or_else(refused)?;
        }
        Ok(Self { http, seeds, own, scope })
    }

    /// A cluster whose members' addresses are known.
    pub(crate) fn at(urls: Vec<String>) -> Self {
        Self { http: HttpClient::new(), seeds: urls, own: None, scope: None }
    }

    /// The REST API of the member that the configuration is of; without one, the first address.
    pub(crate) fn own(&self) -> Result<&str, Failure> {
        let known = self.own.as_ref().or(self.seeds.first()).map(String::as_str);
        known.ok_or_else(|| Failure::text("Error: which member? Give its configuration with -c"))
    }

    /// The cluster as the first member that answers sees it. A cluster name, if given, must be its name.
    pub(crate) async fn cluster(&self, name: Option<&str>) -> Result<ClusterView, Failure> {
        let mut failures = Vec::new();
        for seed in &self.seeds {
            match self.get(seed, "/cluster").await {
                Ok(document) => {
                    let view: ClusterView = serde_json::from_value(document).map_err(|error| {
                        Failure::because(format!("{seed}/cluster gave no description of a cluster"), error)
                    })?;
                    return self.checked(view, name);
                }
                Err(failure) => failures.extend(failure.message()),
            }
        }
        let tried = failures.join("\n  ");
        Err(Failure::text(format!("no member of the cluster answers; is its agent running?\n  {tried}")))
    }

    fn checked(&self, view: ClusterView, name: Option<&str>) -> Result<ClusterView, Failure> {
        let wanted = name.or(self.scope.as_deref());
        match wanted {
            Some(wanted) if !view.scope.is_empty() && wanted != view.scope => Err(Failure::text(format!(
                "{wanted} is not the cluster there, which is {}: check the name, -c or --url",
                view.scope
            ))),
            _ => Ok(view),
        }
    }

    /// A document from one member.
    pub(crate) async fn get(&self, base: &str, path: &str) -> Result<Value, Failure> {
        let url = format!("{base}{path}");
        let response = self.http.get(&url, READ_WITHIN).await?;
        if !response.status.is_success() {
            let (code, body) = (response.status.as_u16(), body_text(&response));
            return Err(Failure::text(format!("GET {url} was answered with {code}: {body}")));
        }
        serde_json::from_slice(&response.body)
            .map_err(|error| Failure::because(format!("the answer to GET {url} is no JSON"), error))
    }

    /// A document from the first of several members that gives it: the leader, then the others.
    pub(crate) async fn get_any(&self, view: &ClusterView, path: &str) -> Result<Value, Failure> {
        let mut last = Failure::text("Can not find accessible cluster member");
        for base in leader_first(view) {
            match self.get(&base, path).await {
                Ok(document) => return Ok(document),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// A request that changes something, to one member. An answer with a status of failure is an answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        base: &str,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<HttpResponse, HttpError> {
        let (url, json) = (format!("{base}{path}"), body.map(|body| body.to_string().into_bytes()));
        match method {
            "PATCH" => self.http.patch(&url, json.unwrap_or_default(), within).await,
            "DELETE" => self.http.delete(&url, within).await,
            _ => self.http.post(&url, json.unwrap_or_else(|| b"{}".to_vec()), within).await,
        }
    }

    /// The same to the first member that is there, the leader first. Another one is only tried when the request has
    /// certainly not arrived.
    pub(crate) async fn send_any(
        &self,
        view: &ClusterView,
        method: &str,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<HttpResponse, Failure> {
        for base in leader_first(view) {
            match self.send(method, &base, path, body, within).await {
                Err(HttpError::Connect { .. }) => {}
                answer => return Ok(answer?),
            }
        }
        Err(Failure::text("Can not find accessible cluster member"))
    }

    /// The identity of the cluster's data, as its title shows it.
    pub(crate) async fn system_id(&self, view: &ClusterView) -> String {
        for base in leader_first(view) {
            if let Ok(status) = self.get(&base, "/patroni").await {
                let id = status.get("database_system_identifier").and_then(Value::as_str);
                return id.unwrap_or("uninitialized").to_owned();
            }
        }
        "unknown".to_owned()
    }
}

/// The addresses of the members' APIs, the leader's first.
fn leader_first(view: &ClusterView) -> Vec<String> {
    let mut members: Vec<_> = view.members.iter().filter(|member| !member.api_url.is_empty()).collect();
    members.sort_by_key(|member| !member.is_leader());
    members.into_iter().map(|member| member.base_url().to_owned()).collect()
}

/// `http://host:port` of whatever was given: without a scheme, with a path, with a slash at its end.
fn base_of(url: &str) -> String {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    format!("{scheme}://{}", rest.split('/').next().unwrap_or(rest))
}

/// The body of an answer for a message.
pub(crate) fn body_text(response: &HttpResponse) -> String {
    String::from_utf8_lossy(&response.body).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_given_as_they_stand_in_other_places() {
        for given in ["127.0.0.1:8008", "http://127.0.0.1:8008/", "http://127.0.0.1:8008/patroni"] {
            assert_eq!(base_of(given), "http://127.0.0.1:8008");
        }
    }
}
