//! The section `router`: the router with its pages.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::View;
use pgbaton_config::{ClientsFile, RouterConfig, RouterPort, RouterPrimary};
use pgbaton_net::HttpServer;
use pgbaton_router::{Mode, PortSettings, ReadOnly, Router, RouterError, Settings, UsePrimary};
use pgbaton_types::chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::descriptors;
use super::metrics::{self, Shown};
use crate::cli::Failure;

/// Pause between attempts to start it, when it shares its process with others: a port that is in use may become free.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A router that serves.
pub(super) struct Serving {
    router: Router,
    shown: Shown,
    page: Option<HttpServer>,
    config: RouterConfig,
}

impl Serving {
    /// Starts it; `inherited`: sockets of systemd.
    pub(super) async fn start(
        config: &RouterConfig,
        views: watch::Receiver<View>,
        inherited: BTreeMap<String, TcpListener>,
    ) -> Result<Self, Failure> {
        let router = Router::start(settings(config), views.clone(), inherited).map_err(cannot_start)?;
        for (port, address) in router.ports() {
            tracing::info!(port = %port.settings.name, %address, "serves");
        }
        let shown = Shown::default();
        shown.set(&router);
        let page = match &config.metrics {
            Some(address) => {
                let failed = |error| Failure::because(format!("the metrics cannot be served at {address}"), error);
                Some(metrics::serve(address, shown.clone(), views).await.map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { router, shown, page, config: config.clone() })
    }

    /// Serves until it is told to stop, and takes what the configuration says anew meanwhile.
    pub(super) async fn run(mut self, mut file: watch::Receiver<Arc<ClientsFile>>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = file.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let config = file.borrow_and_update().router.clone();
                    match config {
                        Some(config) => self.reload(&config),
                        None => tracing::warn!("the section router is gone: the router goes on until this process is started again"),
                    }
                }
            }
        }
        tracing::info!(within_s = self.config.drain_within.as_secs(), "stops: sessions may end by themselves");
        if let Some(page) = self.page {
            page.stop().await;
        }
        let router = self.router;
        if let Err(error) = tokio::task::spawn_blocking(move || router.stop()).await {
            tracing::error!(%error, "the router did not stop in order");
        }
    }

    fn reload(&mut self, config: &RouterConfig) {
        let fixed = |config: &RouterConfig| (config.lease, config.workers, config.metrics.clone());
        if fixed(config) != fixed(&self.config) {
            tracing::warn!("lease, workers and metrics of the router stay as they are until it is started again");
        }
        match self.router.reload(settings(config)) {
            Ok(()) => tracing::info!(ports = self.router.ports().len(), "the router has its configuration anew"),
            Err(error) => tracing::error!(error = %chain(&error), "the router's configuration is not taken"),
        }
        self.shown.set(&self.router);
    }
}

/// Beside others in one process: what keeps it from serving is said, and tried again.
pub(super) async fn run(parts: Parts) {
    let mut said = String::new();
    let mut file = parts.file.clone();
    loop {
        let config = file.borrow_and_update().router.clone();
        if let Some(config) = config {
            // Sockets of systemd can be taken over once only; they are the business of `pgbaton router`.
            match Serving::start(&config, parts.views.clone(), BTreeMap::new()).await {
                Ok(serving) => return serving.run(file, parts.stop).await,
                Err(failure) => {
                    let message = failure.message().unwrap_or_default();
                    if message != said {
                        tracing::error!(%message, "there is no router");
                        said = message;
                    }
                }
            }
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
            changed = file.changed() => if changed.is_err() { return },
        }
    }
}

fn cannot_start(error: RouterError) -> Failure {
    Failure::because("the router cannot be started", error)
}

fn settings(config: &RouterConfig) -> Settings {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Settings {
        ports: config.ports.iter().map(port).collect(),
        sessions_max: descriptors::sessions_max(config.sessions_max),
        held_max: config.held_max,
        hold_within: config.hold_within,
        connect_within: config.connect_within,
        startup_within: config.startup_within,
        idle_within: config.idle_within,
        drain_within: config.drain_within,
        lease: config.lease,
        workers: config.workers.unwrap_or_else(processors),
    }
}

fn port(port: &RouterPort) -> PortSettings {
    let primary = match port.primary {
        RouterPrimary::Never => UsePrimary::Never,
        RouterPrimary::Last => UsePrimary::Last,
        RouterPrimary::Always => UsePrimary::Always,
    };
    let reads = || ReadOnly { lag_max: port.lag_max, site: port.site.clone(), primary };
    PortSettings {
        name: port.name.clone(),
        listen: port.listen.clone(),
        mode: if port.writes { Mode::ReadWrite } else { Mode::ReadOnly(reads()) },
        accept_proxy: port.accept_proxy,
        send_proxy: port.send_proxy,
    }
}
