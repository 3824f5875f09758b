//! What a router shows over HTTP: `GET /metrics` for Prometheus, `GET /status` as JSON.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, http::header};
use hyper_util::service::TowerToHyperService;
use pgbaton_api::View;
use pgbaton_config::HostPort;
use pgbaton_net::{HttpServer, ServerLimits};
use pgbaton_router::{Port, Router};
use pgbaton_types::BootTime;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The ports now.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Vec<Arc<Port>>>>);

impl Shown {
    /// Shows what the router serves now.
    pub(crate) fn set(&self, router: &Router) {
        let ports = router.ports().iter().map(|(port, _)| Arc::clone(port)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    fn get(&self) -> Vec<Arc<Port>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Page {
    shown: Shown,
    view: watch::Receiver<View>,
}

/// Serves both pages.
pub(crate) async fn serve(at: &HostPort, shown: Shown, view: watch::Receiver<View>) -> io::Result<HttpServer> {
    let listener = TcpListener::bind(at.to_string()).await?;
    let pages = axum::Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(Page { shown, view });
    HttpServer::start(listener, TowerToHyperService::new(pages), ServerLimits::default())
}

/// How old the view is, in seconds; none: there is none yet.
fn age(view: &View) -> Option<f64> {
    let now = BootTime(pgbaton_sys::clock::boottime());
    view.as_of.map(|as_of| now.since(as_of).as_secs_f64())
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    let view = page.view.borrow().clone();
    let ports = page.shown.get();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Port) -> u64| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP pgbaton_router_{name} {help}\n# TYPE pgbaton_router_{name} {kind}\n");
        for port in &ports {
            let label = port.settings.name.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(text, "pgbaton_router_{name}{{port=\"{label}\"}} {}", value(port));
        }
    };
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let now = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed) as u64;
    metric("connections_total", "counter", "Connections that were accepted.", &|port| of(&port.counters.accepted));
    metric("sessions", "gauge", "Sessions now.", &|port| now(&port.counters.sessions));
    metric("held", "gauge", "Connections that wait for a server now.", &|port| now(&port.counters.held));
    metric("refused_total", "counter", "Connections that were refused.", &|port| of(&port.counters.refused));
    metric("cancels_total", "counter", "Cancel requests that were passed on.", &|port| of(&port.counters.cancels));
    metric("cut_total", "counter", "Sessions that were ended as their server is not the one any more.", &|port| {
        of(&port.counters.cut)
    });
    metric("idle_total", "counter", "Sessions that were ended as nothing was said.", &|port| of(&port.counters.idle));
    metric("bytes_in_total", "counter", "Bytes from clients, of sessions that have ended.", &|port| {
        of(&port.counters.bytes_in)
    });
    metric("bytes_out_total", "counter", "Bytes to clients, of sessions that have ended.", &|port| {
        of(&port.counters.bytes_out)
    });
    let epoch = view.baton.epoch.map_or(0, |epoch| epoch.0);
    let _ = write!(
        text,
        "# HELP pgbaton_router_epoch The reign that the store shows; 0: none.\n# TYPE pgbaton_router_epoch gauge\npgbaton_router_epoch {epoch}\n"
    );
    if let Some(age) = age(&view) {
        let _ = write!(
            text,
            "# HELP pgbaton_router_view_age_seconds How old the view of the store is.\n# TYPE pgbaton_router_view_age_seconds gauge\npgbaton_router_view_age_seconds {age:.3}\n"
        );
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn status(State(page): State<Page>) -> impl IntoResponse {
    let view = page.view.borrow().clone();
    let ports: Vec<_> = page
        .shown
        .get()
        .iter()
        .map(|port| {
            json!({
                "name": port.settings.name,
                "listen": port.settings.listen,
                "sessions": port.counters.sessions.load(Ordering::Relaxed),
                "held": port.counters.held.load(Ordering::Relaxed),
            })
        })
        .collect();
    Json(json!({ "view_age_seconds": age(&view), "baton": view.baton, "ports": ports }))
}
