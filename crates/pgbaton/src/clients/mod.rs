//! What makes the clients of a host follow the cluster, in one process: `pgbaton clients`, and with one section alone `pgbaton router` and
//! `pgbaton render --watch`.
//!
//! One task follows the store; every section has a task of its own that gets its views. None of them waits for another one, and what one of
//! them cannot do it says and tries again.

mod descriptors;
mod files;
pub(crate) mod follow;
mod metrics;
mod pgbouncer;
mod publish;
mod router;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_agent::logging;
use pgbaton_api::View;
use pgbaton_config::{ClientsFile, Wanted, load_clients};
use pgbaton_types::chain;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Failure;
use follow::Cluster;
use router::Serving;

pub(crate) use files::{Made, apply, made, template, word};
pub(crate) use publish::settings as published;

/// How long the store may take to answer, and how old a view may be, unless the router says otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// What every section gets.
#[derive(Clone)]
struct Parts {
    /// The configuration as it is now.
    file: watch::Receiver<Arc<ClientsFile>>,
    /// The cluster as it is now.
    views: watch::Receiver<View>,
    /// It is to end.
    stop: CancellationToken,
    /// Who this is: the member's name, or the host's.
    host: String,
}

/// Runs until SIGTERM or SIGINT; SIGHUP reads the configuration anew.
pub(crate) fn run(config: Option<&Path>, wanted: Wanted) -> Result<(), Failure> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let file = load_clients(config, &environment, wanted)?;
    logging::start(file.follower.log_level);
    descriptors::allow_all();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    let ended = runtime.block_on(serve(config, wanted, Arc::new(file)));
    logging::finish();
    ended
}

async fn serve(config: Option<&Path>, wanted: Wanted, file: Arc<ClientsFile>) -> Result<(), Failure> {
    let cluster = Cluster::of(&file.follower, lease(&file))?;
    let mut signals = Signals::take()?;
    let (views, newest) = watch::channel(View::default());
    let (files, current) = watch::channel(Arc::clone(&file));
    let stop = CancellationToken::new();
    let host = file.follower.name.as_ref().map_or_else(host_name, |member| member.as_str().to_owned());
    let parts = Parts { file: current, views: newest, stop: stop.clone(), host };
    let mut running = JoinSet::new();
    // Alone, it says at once what is wrong with it.
    if let (Wanted::Router, Some(router)) = (wanted, &file.router) {
        let inherited = pgbaton_sys::inherited::listeners();
        let serving = Serving::start(router, parts.views.clone(), inherited).await?;
        running.spawn(serving.run(parts.file.clone(), stop.clone()));
    } else {
        running.spawn(router::run(parts.clone()));
    }
    if wanted == Wanted::Files {
        made(&file.files)?;
    }
    running.spawn(files::run(parts.clone()));
    running.spawn(pgbouncer::run(cluster.clone(), parts.clone()));
    running.spawn(publish::run(parts));
    let (leases, shortest) = watch::channel(cluster.lease);
    let mut following = tokio::spawn(follow::follow(cluster, views, shortest));
    let failed = loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break false,
                Told::Reload => {
                    reload(config, wanted, &files);
                    // A router keeps the lease that it was started with.
                    let new = lease(&files.borrow());
                    leases.send_if_modified(|lease| new < std::mem::replace(lease, new.min(*lease)));
                }
            },
            // None of them ends by itself: whoever started this process starts another one.
            Some(ended) = running.join_next() => {
                tracing::error!(?ended, "a part has ended before its time");
                break true;
            }
            ended = &mut following => {
                tracing::error!(?ended, "the store is not followed any more");
                break true;
            }
        }
    };
    stop.cancel();
    // The store is followed meanwhile: sessions that go on are bound to it.
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part did not end in order; this is a bug");
        }
    }
    following.abort();
    if failed {
        Err(Failure::text(
            "Error: this process has lost a part, as the log says; this is a bug, and it is to be started again",
        ))
    } else {
        Ok(())
    }
}

/// For how long a view is to hold.
fn lease(file: &ClientsFile) -> Duration {
    file.router.as_ref().map_or(LEASE, |router| router.lease)
}

/// What this host calls itself.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Takes the configuration anew. What is wrong with it changes nothing.
fn reload(config: Option<&Path>, wanted: Wanted, files: &watch::Sender<Arc<ClientsFile>>) {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let file = match load_clients(config, &environment, wanted) {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the configuration is not taken");
            return;
        }
    };
    let fixed = |file: &ClientsFile| {
        (file.follower.scope.clone(), file.follower.namespace.clone(), file.follower.store.clone())
    };
    if fixed(&file) != fixed(&files.borrow()) {
        tracing::warn!("scope, namespace and store stay as they are until this process is started again");
    }
    files.send_replace(Arc::new(file));
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
