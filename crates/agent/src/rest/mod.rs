//! The REST API: Patroni's paths, codes and texts, the questions of other members, and our own `/explain`.
//!
//! It reads snapshots of the loop, writes what operators ask for into the store, and passes orders on. It never decides
//! anything about the cluster and can never delay the loop: it runs on another runtime, and its channel to the loop is bounded.
//! Whoever waits here waits for a snapshot, never by sleeping.

pub(crate) mod agent_check;
mod answer;
mod auth;
mod body;
mod cluster;
mod config;
mod explain;
mod handover;
mod health;
mod orders;
mod peer;
mod status;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use pgbaton_api::Handover;
use pgbaton_net::{HttpServer, ServerLimits};
use tokio::net::TcpListener;

use crate::shared::Shared;
use answer::Answer;

/// Serves the API on a bound listener until the server is stopped or dropped. Must be called on a runtime.
///
/// # Errors
/// When the listener has no address, which the operating system then explains.
pub fn start(listener: TcpListener, shared: Shared) -> io::Result<HttpServer> {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer_to(request, &shared).await.into_response()) }
    });
    HttpServer::start(listener, service, ServerLimits::default())
}

/// The method and the first part of the path decide; what is behind it does not matter. Any other path that is read is a health
/// check, which answers 503 to what it does not know.
async fn answer_to(request: Request<Incoming>, shared: &Shared) -> Answer {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match *request.method() {
        Method::GET => get(&path, first, &query, shared).await,
        // Also for paths that have a GET of their own, as in Patroni.
        Method::HEAD | Method::OPTIONS => health::check(&path, &query, &shared.now()),
        Method::POST | Method::PATCH | Method::PUT | Method::DELETE => change(request, first, shared).await,
        _ => Answer::from(pgbaton_api::Reply::NotImplemented),
    }
}

async fn get(path: &str, first: &str, query: &str, shared: &Shared) -> Answer {
    match first {
        "liveness" => health::liveness(&shared.now()),
        "readiness" => health::readiness(query, &shared.now()),
        "patroni" => status::patroni(&shared.now()),
        "metrics" => status::metrics(&shared.now()),
        "cluster" => cluster::cluster(shared).await,
        "history" => cluster::history(&shared.now()),
        "config" => config::get(&shared.now()),
        "explain" => explain::explain(shared).await,
        "pgbaton" if path == pgbaton_api::PATH_POSITION => peer::position(shared).await,
        _ => health::check(path, query, &shared.now()),
    }
}

/// Everything that changes something asks for the password, if there is one.
async fn change(request: Request<Incoming>, first: &str, shared: &Shared) -> Answer {
    if let Err(refused) = auth::check(request.headers(), shared.now().local.restapi.authentication.as_ref()) {
        return refused;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = match body::read(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    match (method.as_str(), first) {
        ("PATCH", "config") => config::patch(shared, &body).await,
        ("PUT", "config") => config::put(shared, &body).await,
        ("POST", "switchover") => handover::begin(shared, Handover::Switchover, &body).await,
        ("POST", "failover") => handover::begin(shared, Handover::Failover, &body).await,
        ("DELETE", "switchover") => handover::unschedule(shared).await,
        ("POST", "restart") => orders::restart(shared, &body).await,
        ("DELETE", "restart") => orders::unschedule(shared).await,
        ("POST", "reinitialize") => orders::reinitialize(shared, &body).await,
        ("POST", "reload") => orders::reload(shared).await,
        ("POST", "pgbaton") => peer::post(shared, &path, &body).await,
        _ => Answer::from(pgbaton_api::Reply::NotImplemented),
    }
}
