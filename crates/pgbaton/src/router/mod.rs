//! `pgbaton router`: the process around the router.

mod metrics;

use std::collections::BTreeMap;
use std::path::Path;

use pgbaton_agent::logging;
use pgbaton_config::{RouterConfig, RouterFile, RouterPort, RouterPrimary, load_router};
use pgbaton_router::{Mode, PortSettings, ReadOnly, Router, Settings, UsePrimary, View};
use pgbaton_types::chain;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::Failure;
use crate::follow::{self, Cluster};

/// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration anew.
pub(crate) fn run(config: Option<&Path>) -> Result<(), Failure> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let file = load_router(config, &environment)?;
    logging::start(file.follower.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    let ended = runtime.block_on(serve(config, file));
    logging::finish();
    ended
}

async fn serve(config: Option<&Path>, file: RouterFile) -> Result<(), Failure> {
    let cluster = Cluster::of(&file.follower, file.router.lease)?;
    let mut signals = Signals::take()?;
    let (views, newest) = watch::channel(View::default());
    let inherited = pgbaton_sys::inherited::listeners();
    let router = Router::start(settings(&file.router), newest.clone(), inherited);
    let mut router = router.map_err(|error| Failure::because("the router cannot be started", error))?;
    for (port, address) in router.ports() {
        tracing::info!(port = %port.settings.name, %address, "serves");
    }
    let following = tokio::spawn(follow::follow(cluster, views));
    let shown = metrics::Shown::default();
    shown.set(&router);
    let page = match &file.router.metrics {
        Some(address) => Some(
            metrics::serve(address, shown.clone(), newest)
                .await
                .map_err(|error| Failure::because(format!("the metrics cannot be served at {address}"), error))?,
        ),
        None => None,
    };
    loop {
        match signals.next().await {
            Told::Stop => break,
            Told::Reload => {
                reload(config, &file, &mut router);
                shown.set(&router);
            }
        }
    }
    tracing::info!(within_s = file.router.drain_within.as_secs(), "stops: sessions may end by themselves");
    if let Some(page) = page {
        page.stop().await;
    }
    // The store is followed meanwhile: sessions that go on are bound to it.
    let stopped = tokio::task::spawn_blocking(move || router.stop()).await;
    following.abort();
    stopped.map_err(|error| Failure::because("the router did not stop in order", error))
}

/// Takes the configuration anew. What is wrong with it changes nothing.
fn reload(config: Option<&Path>, running: &RouterFile, router: &mut Router) {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let file = match load_router(config, &environment) {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the configuration is not taken");
            return;
        }
    };
    let fixed = |file: &RouterFile| {
        (
            file.follower.scope.clone(),
            file.follower.namespace.clone(),
            file.follower.store.clone(),
            file.router.lease,
            file.router.workers,
            file.router.metrics.clone(),
        )
    };
    if fixed(&file) != fixed(running) {
        tracing::warn!(
            "scope, namespace, store, lease, workers and metrics stay as they are until the router is started again"
        );
    }
    match router.reload(settings(&file.router)) {
        Ok(()) => tracing::info!(ports = router.ports().len(), "the configuration was read anew"),
        Err(error) => tracing::error!(error = %chain(&error), "the configuration is not taken"),
    }
}

fn settings(config: &RouterConfig) -> Settings {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Settings {
        ports: config.ports.iter().map(port).collect(),
        sessions_max: config.sessions_max,
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

/// What a signal means.
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::because("cannot receive signals", error));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}
