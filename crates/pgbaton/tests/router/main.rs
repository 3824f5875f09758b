//! The router in front of real servers: what its clients see when the primary changes, stops, or cannot be known.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/common.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod common;
mod follows;
mod protocol;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use pgbaton_testkit::cluster::{SUPERUSER, SUPERUSER_PASSWORD, StoreKind};
use pgbaton_testkit::router::Router;
use pgbaton_testkit::{Cluster, wait};
use postgres::{Client, NoTls};

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;

/// A router in front of a cluster that is healthy, and that it has seen.
fn routed(settings: &str, reading: &str) -> (Cluster, Router) {
    let cluster = healthy();
    let router = before(&cluster, settings, reading);
    (cluster, router)
}

/// A router in front of a cluster that it has seen.
fn before(cluster: &Cluster, settings: &str, reading: &str) -> Router {
    let router = Router::start(env!("CARGO_BIN_EXE_pgbaton").as_ref(), cluster, settings, reading).unwrap();
    wait::until("the router to know a primary", LIMIT, || {
        let page = page(&router, "/status")?;
        if page["baton"]["primary"].is_null() { Err(page.to_string()) } else { Ok(()) }
    })
    .unwrap();
    router
}

/// A page of the router, as JSON.
fn page(router: &Router, path: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(&text(router, path)?).map_err(|error| error.to_string())
}

/// A page of the router.
fn text(router: &Router, path: &str) -> Result<String, String> {
    let answer = pgbaton_testkit::cluster::ask(router.metrics(), "GET", path, "", Duration::from_secs(2));
    answer.map(|answer| answer.body).map_err(|error| error.to_string())
}

/// A session through a port.
fn session(at: SocketAddr) -> Result<Client, postgres::Error> {
    let mut config = postgres::Config::new();
    config.host(&at.ip().to_string()).port(at.port()).user(SUPERUSER).password(SUPERUSER_PASSWORD).dbname("postgres");
    config.connect_timeout(LIMIT).connect(NoTls)
}

/// The port of the server that a session is on, which tells the members apart, and whether it is in recovery.
fn place(client: &mut Client) -> (u16, bool) {
    let row = client.query_one("SELECT inet_server_port(), pg_is_in_recovery()", &[]).unwrap();
    (u16::try_from(row.get::<_, i32>(0)).unwrap(), row.get(1))
}
