//! From the configuration to a running agent, and to its end. The only place that knows every part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgbaton_config::Loaded;
use pgbaton_core::observation::Lease;
use pgbaton_guard::EXIT_CONFIGURATION;
use pgbaton_guard::client::{self, Client as Guard};
use pgbaton_net::HttpServer;
use pgbaton_types::{BootTime, chain};
use rustix::event::{PollFd, PollFlags};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clients;
use crate::clock;
use crate::connect::Connected;
use crate::context::{Config, Context, Parts};
use crate::event::Event;
use crate::ha_loop::{Ended, HaLoop, Wiring};
use crate::host_facts::OwnFacts;
use crate::keeper::{self, Held};
use crate::peers::Peers;
use crate::publish::{self, Publication};
use crate::rest;
use crate::serve_peer::PeerService;
use crate::settings::{self, SettingsKeeper};
use crate::shared::Shared;
use crate::spec::beside;
use crate::startup::{self, StartError};
use crate::state::StateFile;
use crate::store_thread::StoreThread;
use crate::{keys, known_members, left_lease, logging, snapshot, unguarded, view};

/// Events that may wait for the loop. It takes them all at each turn; more than this in between only mean that it is to look anew.
const EVENTS_MAX: usize = 1024;
/// How often hosts are asked about themselves while the store knows no cluster.
const ASK_LISTED_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether that has come to be, while the store knows one.
const FORGOTTEN_INTERVAL: Duration = Duration::from_secs(3);
/// How long such a question may take.
const ASK_LISTED_TIME: Duration = Duration::from_millis(400);
/// How long a guard that is gone is given to take this process with it, before this process cleans up in its place.
const GUARD_GONE_PAUSE: Duration = Duration::from_millis(300);
/// How long the REST server and the store may take to end.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// Threads for everything but the loop and the store. Two, so that one that computes does not hold the lease's keeper.
const SERVICE_THREADS: usize = 2;
/// Most threads for operations and files.
const BLOCKING_THREADS: usize = 4;
/// Stack of each thread: deep calls are only in serialisation, and 2 MiB each would show in the memory that is promised.
const STACK_BYTES: usize = 1024 * 1024;

/// How to run the agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration: a file or a directory; none reads the environment alone.
    pub config: Option<PathBuf>,
}

/// Runs the agent below its guard until it is to end, and gives its exit code: 0 after an orderly end,
/// [`pgbaton_guard::EXIT_LEAVES`] when the server goes on in a pause, [`pgbaton_guard::EXIT_CONFIGURATION`] when it could not begin.
pub fn run(options: &Options) -> u8 {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let loaded = match pgbaton_config::load(options.config.as_deref(), &environment) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error.into()),
    };
    logging::start(loaded.local.log_level);
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.summary());
    }
    match begin(options, loaded, environment) {
        Ok(Ended { code, why }) => {
            if matches!(code, 0 | pgbaton_guard::EXIT_LEAVES) {
                tracing::info!("{why}");
            } else {
                tracing::error!(code, "{why}");
            }
            logging::finish();
            code
        }
        Err(error) => refuse(&error),
    }
}

#[expect(clippy::print_stderr, reason = "a mistake in the start is said whatever the log does")]
fn refuse(error: &StartError) -> u8 {
    logging::finish();
    eprintln!("pgbaton: {}", chain(error));
    EXIT_CONFIGURATION
}

fn begin(options: &Options, loaded: Loaded, environment: BTreeMap<String, String>) -> Result<Ended, StartError> {
    let Loaded { local, initial_dynamic, .. } = loaded;
    let (events, queue) = mpsc::channel(EVENTS_MAX);
    let data_dir = local.postgresql.data_dir.clone();
    let services = services()?;
    take_signals(&services, &events)?;
    let guard = guard_client(&events, &data_dir)?;
    let lock = startup::lock_data_dir(&data_dir)?;
    let store_thread = StoreThread::start(STACK_BYTES)
        .map_err(|source| StartError::System { what: "start the thread of its store", source })?;
    let dynamic = settings::cached(&data_dir).unwrap_or(initial_dynamic);
    let status = guard.status().map_err(StartError::Guard)?;
    let kill_time = Duration::from_millis(u64::from(status.rights.enforcement_ms()));
    let config = Config::new(Arc::new(local), dynamic, kill_time);
    let own_facts = OwnFacts::default();
    let local = Arc::clone(&config.local);
    // A server that nobody guards is seen by the loop, which says what becomes of it.
    if !status.tree_alive && unguarded::find(&data_dir, None).is_none() {
        startup::check_server_port(&local)?;
    }
    let listener = startup::bind_rest(&local)?;
    let state = StateFile::open(beside(&data_dir, "state"))?;
    services.block_on(startup::check_server(&config.spec, config.effective.use_pg_rewind))?;
    let connected = store_thread.block_on(Connected::open(&local, &own_facts))?;
    let context = Arc::new(Context::new(Parts {
        me: local.name.clone(),
        prefix: pgbaton_api::layout::Keys::new(&local.namespace, &local.scope).prefix().to_owned(),
        store: connected.store(),
        lists_no_hosts: connected.lists_no_hosts(),
        guard,
        events,
        services: services.handle().clone(),
        state,
        config,
    }));
    connected.knows(&context.kept().members);
    resume(&context, &status);
    let (snapshots, newest) = watch::channel(Arc::new(snapshot::before_the_first(&context)));
    let (wanted, publications) = watch::channel(Publication::default());
    spawn_tasks(&services, &context, &connected, publications)?;
    let shared = Shared {
        snapshot: newest,
        orders: context.events.clone(),
        store: connected.store(),
        prefix: context.prefix.as_str().into(),
        local,
        peer: Arc::new(PeerService::new(Arc::clone(&context))),
    };
    if let Some(listen) = &shared.local.restapi.agent_check {
        services.spawn(rest::agent_check::serve(listen.clone(), shared.clone()));
    }
    let rest = services
        .block_on(async { rest::start(tokio::net::TcpListener::from_std(listener)?, shared) })
        .map_err(|source| StartError::System { what: "serve the REST API", source })?;
    let settings = SettingsKeeper::new(options.config.clone(), environment);
    let stop_clients = CancellationToken::new();
    let wanted_clients = context.clients.subscribe();
    let clients = services.spawn(clients::run(absolute(options)?, wanted_clients, stop_clients.clone()));
    let shared_context = Arc::clone(&context);
    let wiring =
        Wiring { context, connected: connected.clone(), own_facts, events: queue, snapshots, wanted, settings };
    let ended = run_loop(wiring)?;
    stop_clients.cancel();
    services.block_on(close(&shared_context, ended.code, clients, rest, &connected));
    services.shutdown_background();
    drop(store_thread);
    drop(lock);
    Ok(ended)
}

/// The end of everything but the loop, which has ended with this code.
async fn close(context: &Context, code: u8, clients: JoinHandle<()>, rest: HttpServer, connected: &Connected) {
    // The next agent goes on with the address when there is one.
    if matches!(code, 0 | pgbaton_guard::EXIT_LEAVES) {
        context.address.finish(CLOSE_TIME).await;
        // Otherwise the next agent wants its lease back at once; the clients' process ends with this one in any case.
        if tokio::time::timeout(clients::END_TIME + CLOSE_TIME, clients).await.is_err() {
            tracing::error!("the process for clients did not end in time");
        }
    }
    let close = async {
        rest.stop().await;
        connected.close().await;
    };
    if tokio::time::timeout(CLOSE_TIME, close).await.is_err() {
        tracing::warn!("the store did not close in time");
    }
}

/// The file as its reader finds it, wherever that runs.
fn absolute(options: &Options) -> Result<Option<PathBuf>, StartError> {
    let failed = |source| StartError::System { what: "find its configuration", source };
    options.config.as_ref().map(std::path::absolute).transpose().map_err(failed)
}

fn services() -> Result<Runtime, StartError> {
    Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_name("services")
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "make its threads", source })
}

/// The loop has a thread and a runtime of its own: whatever the others do, it decides.
fn run_loop(wiring: Wiring) -> Result<Ended, StartError> {
    let failed = |source| StartError::System { what: "start its loop", source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new()
        .name("loop".to_owned())
        .stack_size(STACK_BYTES * 2)
        .spawn(move || runtime.block_on(HaLoop::new(wiring).run()))
        .map_err(failed)?;
    // A loop that panicked ends the agent: the guard starts another one, which finds the server.
    Ok(thread.join().unwrap_or(Ended { code: 1, why: "the loop failed; this is a bug".to_owned() }))
}

fn guard_client(events: &mpsc::Sender<Event>, data_dir: &Path) -> Result<Arc<Guard>, StartError> {
    let (events, data_dir) = (events.clone(), data_dir.to_owned());
    let sink = move |event: client::Event| {
        let event = match event {
            client::Event::ServerExited(_) | client::Event::TreeEmpty => Event::ServerChanged,
            client::Event::GuardGone => {
                let data_dir = data_dir.clone();
                std::thread::spawn(move || clean_up_without_guard(&data_dir));
                Event::GuardLost
            }
        };
        // A full queue wakes the loop as well; a closed one belongs to a loop that has ended.
        let _ = events.try_send(event);
    };
    Guard::from_environment(sink).map(Arc::new).map_err(StartError::Guard)
}

/// Both guards are dead if this process still lives a moment after its guard: nobody else is left to stop the server.
fn clean_up_without_guard(data_dir: &Path) {
    // waits: for the outer guard to kill this process, which is the usual end
    std::thread::sleep(GUARD_GONE_PAUSE);
    if let Err(error) = client::kill_abandoned(data_dir) {
        tracing::error!(%error, "what is left of the server could not be killed");
    }
    logging::finish();
    std::process::exit(1);
}

/// An agent that was killed goes on with its lease, as long as the guard enforces its deadline.
fn resume(context: &Context, status: &pgbaton_guard::wire::Status) {
    let (Some(kept), Some(deadline)) = (context.kept().lease, status.deadline) else { return };
    let deadline = BootTime(deadline);
    if status.epoch != kept.epoch.0 || clock::now().reached(deadline) {
        return;
    }
    let lease = Lease { epoch: kept.epoch, created: kept.created, granted: kept.granted, deadline };
    tracing::info!(epoch = %kept.epoch, left_ms = deadline.since(clock::now()).as_millis(), "goes on with the lease that it held");
    context.lease.resume(Held { lease, id: kept.id });
}

fn spawn_tasks(
    services: &Runtime,
    context: &Arc<Context>,
    connected: &Connected,
    publications: watch::Receiver<Publication>,
) -> Result<(), StartError> {
    let _inside = services.enter();
    let failed = |what| move |source| StartError::System { what, source };
    services.spawn(view::refresh(Arc::clone(context)));
    services.spawn(view::watch(Arc::clone(context)));
    services.spawn(keeper::keep(Arc::clone(context)));
    services.spawn(publish::publish(Arc::clone(context), publications));
    // Nobody guards a server that was left in a pause; what it was left with is the store's to say.
    if let Some(kept) = context.kept().lease.filter(|_| context.lease.any().is_none()) {
        services.spawn(left_lease::take_up(Arc::clone(context), kept));
    }
    services.spawn(ask_listed(Arc::clone(context), connected.clone()));
    if connected.lists_no_hosts() {
        services.spawn(known_members::keep_new(Arc::clone(context), connected.clone()));
    }
    let guard = Arc::clone(&context.guard);
    std::thread::Builder::new()
        .name("guard events".to_owned())
        .stack_size(STACK_BYTES / 4)
        .spawn(move || receive_guard_events(&guard))
        .map_err(failed("start a thread"))?;
    Ok(())
}

/// Passes signals on to the loop, from now on: whoever ends this agent while it still begins shall not be told that it failed.
fn take_signals(services: &Runtime, events: &mpsc::Sender<Event>) -> Result<(), StartError> {
    let _inside = services.enter();
    for (kind, terminate) in
        [(SignalKind::terminate(), true), (SignalKind::interrupt(), true), (SignalKind::hangup(), false)]
    {
        let mut signals = signal(kind).map_err(|source| StartError::System { what: "receive signals", source })?;
        let events = events.clone();
        services.spawn(async move {
            while signals.recv().await.is_some() {
                // It fails when the loop has ended, which is what is wanted, or has not to be told any more.
                let _ = events.send(if terminate { Event::Terminate } else { Event::Reload }).await;
            }
        });
    }
    Ok(())
}

/// While the store knows no cluster, what the hosts say about themselves decides.
async fn ask_listed(context: Arc<Context>, connected: Connected) {
    let peers = Peers::new(Arc::clone(&context));
    let mut absent = BTreeMap::new();
    loop {
        let view = context.view.get();
        let known = view.keys.contains_key(keys::INITIALIZE);
        if view.as_of.is_some() && !known {
            let told = connected.ask_listed(&peers, context.kept().members, ASK_LISTED_TIME).await;
            known_members::add(&context, &connected, told);
            context.wake(Event::StoreChanged);
        }
        if connected.lists_no_hosts()
            && let Some(shown) = known_members::shown(&context, &view.keys)
        {
            known_members::keep(&context, &connected, shown, &mut absent);
        }
        connected.listed_wanted(if known { FORGOTTEN_INTERVAL } else { ASK_LISTED_INTERVAL }).await;
    }
}

/// Waits for what the guard tells by itself, on a thread of its own: the descriptor stays the client's.
fn receive_guard_events(guard: &Guard) {
    loop {
        let waited = rustix::event::poll(&mut [PollFd::new(guard, PollFlags::IN)], None);
        let waited = waited.map_err(|error| client::ClientError::Io(error.into()));
        if let Err(error) = waited.and_then(|_| guard.receive()) {
            if matches!(&error, client::ClientError::Io(error) if error.kind() == std::io::ErrorKind::Interrupted) {
                continue;
            }
            tracing::error!(error = %chain(&error), "nothing more comes from the guard");
            return;
        }
    }
}
