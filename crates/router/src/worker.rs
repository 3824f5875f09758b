//! A thread that copies, with a runtime of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_types::{BootTime, MemberName, chain};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::accept;
use crate::connect::reset_at_close;
use crate::counters::{Gauge, count};
use crate::establish::{Established, Refused, establish};
use crate::port::Port;
use crate::pumps::{Ended, Pumps};
use crate::routes::Routes;
use crate::sessions::{Sessions, Why};
use crate::settings::Settings;
use crate::startup::StartupError;

/// How finely the time is known since a session said something last.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether the view has become too old: a tenth of the shortest lease.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A connection that was accepted.
pub(crate) struct Accepted<S = TcpStream> {
    pub(crate) port: Arc<Port>,
    pub(crate) stream: S,
    pub(crate) from: SocketAddr,
}

/// What a worker is told.
pub(crate) enum Order {
    /// Accept connections, until nobody has the port open any more.
    Accept(watch::Receiver<Arc<Port>>, TcpListener),
    /// A connection that another worker has accepted.
    Serve(Accepted<std::net::TcpStream>),
    /// Other limits from now on.
    Settings(Arc<Settings>),
    /// The sessions of a port that is no more may go on for so long.
    Drain(Arc<Port>, Duration),
    /// Sessions may go on for so long; then it ends.
    Stop(Duration),
}

/// How many sessions each server has, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Load(Mutex<BTreeMap<MemberName, Arc<AtomicUsize>>>);

impl Load {
    pub(crate) fn of(&self, member: &MemberName) -> usize {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(member).map_or(0, |sessions| sessions.load(Ordering::Relaxed))
    }

    fn counter(&self, member: &MemberName) -> Arc<AtomicUsize> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(servers.entry(member.clone()).or_default())
    }
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) routes: watch::Receiver<Routes>,
    pub(crate) load: Load,
    /// Connections that wait for a server.
    pub(crate) held: AtomicUsize,
    /// Connections, sessions or not.
    pub(crate) open: AtomicUsize,
    /// How many of them there may be.
    pub(crate) sessions_max: Arc<AtomicUsize>,
    /// For connections that another one has accepted. They end when the router has gone.
    pub(crate) workers: Vec<mpsc::WeakUnboundedSender<Order>>,
}

/// One worker.
pub(crate) struct Worker {
    /// Which one of the shared list.
    pub(crate) number: usize,
    shared: Arc<Shared>,
    settings: RefCell<Arc<Settings>>,
    sessions: Rc<Sessions>,
    pumps: Rc<Pumps>,
    clock: Clock,
}

impl Worker {
    /// The limits now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }
}

impl std::ops::Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A clock that costs nothing to read.
#[derive(Debug, Default)]
pub(crate) struct Clock(Cell<u32>);

impl Clock {
    pub(crate) fn tick(&self) -> u32 {
        self.0.get()
    }
}

/// Runs until it is told to stop, or nobody can tell it anything any more.
pub(crate) async fn run(
    number: usize,
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    pumps: Pumps,
) {
    let settings = RefCell::new(settings);
    let (sessions, pumps, clock) = (Rc::default(), Rc::new(pumps), Clock::default());
    let worker = Rc::new(Worker { number, shared, settings, sessions, pumps, clock });
    let copying = tokio::task::spawn_local(copy_all(Rc::clone(&worker)));
    let watching = tokio::task::spawn_local(end_outdated(Rc::clone(&worker)));
    let ticking = tokio::task::spawn_local(keep_time(Rc::clone(&worker)));
    let drain = loop {
        match orders.recv().await {
            Some(Order::Accept(port, listener)) => {
                tokio::task::spawn_local(accept::accept(Rc::clone(&worker), port, listener));
            }
            Some(Order::Serve(accepted)) => serve_from(&worker, accepted),
            Some(Order::Settings(settings)) => *worker.settings.borrow_mut() = settings,
            Some(Order::Drain(port, within)) => drain(&worker, port, within),
            Some(Order::Stop(within)) => break within,
            None => break Duration::ZERO,
        }
    };
    // What was handed over since then is not begun any more.
    orders.close();
    while orders.try_recv().is_ok() {}
    let until = Instant::now() + drain;
    while worker.sessions.len() > 0 && Instant::now() < until {
        // waits: for sessions to end by themselves, which nothing tells
        sleep_until(until.min(Instant::now() + LOOK_INTERVAL)).await;
    }
    worker.sessions.end(Why::Stop, |_, _| true);
    for work in [copying, watching, ticking] {
        work.abort();
    }
    // The sessions close their connections when they are polled next.
    tokio::task::yield_now().await;
}

/// Lets the sessions of a port go on for a while.
fn drain(worker: &Rc<Worker>, port: Arc<Port>, within: Duration) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        sleep(within).await;
        worker.sessions.end(Why::Stop, |of, _| Arc::ptr_eq(&of.counters, &port.counters));
    });
}

/// Serves a connection that another worker has accepted.
pub(crate) fn serve_from(worker: &Rc<Worker>, accepted: Accepted<std::net::TcpStream>) {
    let Accepted { port, stream, from } = accepted;
    match TcpStream::from_std(stream) {
        Ok(stream) => serve(worker, Accepted { port, stream, from }),
        Err(error) => {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "a connection cannot be served");
        }
    }
}

/// Serves a connection, from its first packet to its end.
pub(crate) fn serve(worker: &Rc<Worker>, accepted: Accepted) {
    let Accepted { port, stream, from } = accepted;
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        // In a box of its own: what is needed to begin is given back when the session runs.
        let begun = Box::pin(establish(&worker, Accepted { port: Arc::clone(&port), stream, from })).await;
        match begun {
            Ok(session) => copy(&worker, &port, session).await,
            Err(refused) => tell(&port, from, &refused),
        }
        worker.open.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn copy(worker: &Worker, port: &Arc<Port>, session: Established) {
    let Established { client, server, said, bound } = session;
    let counters = &port.counters;
    let registered = worker.sessions.add(Arc::clone(port), Rc::clone(&bound), worker.clock.tick());
    // What changed since the server was chosen was told to registered sessions only.
    let now = BootTime(pgbaton_sys::clock::boottime());
    if !worker.routes.borrow().keeps(&bound, &port.settings.mode, now) {
        reset_at_close(&client);
        count(&counters.cut);
        return;
    }
    let load = worker.load.counter(&bound.member);
    let _gauges = (Gauge::up(&counters.sessions), Gauge::up(&load));
    let mut copying = match worker.pumps.add(client, server, said, registered) {
        Ok(copying) => copying,
        Err(error) => {
            count(&counters.refused);
            tracing::warn!(%error, port = %port.settings.name, server = %bound.address, "a session cannot begin");
            return;
        }
    };
    let ended = (&mut copying).await;
    let (bytes_in, bytes_out) = copying.bytes();
    counters.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
    counters.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    match ended {
        Ended::Itself | Ended::Outside(Why::Stop) => {}
        Ended::Outside(Why::Cut) => count(&counters.cut),
        Ended::Outside(Why::Idle) => count(&counters.idle),
    }
}

/// A task of its own, beside those of the sessions.
async fn copy_all(worker: Rc<Worker>) {
    worker.pumps.run(&worker.clock).await;
}

fn tell(port: &Port, from: SocketAddr, refused: &Refused) {
    let name = &port.settings.name;
    match refused {
        Refused::Cancelled | Refused::Startup(StartupError::Gone) => {}
        _ => {
            count(&port.counters.refused);
            tracing::warn!(port = %name, client = %from, error = %chain(refused), "a connection was refused");
        }
    }
}

/// Ends sessions whose server is not the one any more, at once when the view says so, or when there is none that holds.
async fn end_outdated(worker: Rc<Worker>) {
    let mut routes = worker.routes.clone();
    loop {
        {
            let routes = routes.borrow_and_update();
            let now = BootTime(pgbaton_sys::clock::boottime());
            worker.sessions.end(Why::Cut, |port, bound| !routes.keeps(bound, &port.settings.mode, now));
        }
        tokio::select! {
            changed = routes.changed() => {
                if changed.is_err() {
                    // Nobody makes views any more: the newest becomes too old.
                    sleep(LOOK_INTERVAL).await;
                }
            }
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// Counts time, and ends sessions that have been quiet for too long.
async fn keep_time(worker: Rc<Worker>) {
    loop {
        sleep(TICK).await;
        worker.clock.0.set(worker.clock.tick().wrapping_add(1));
        if let Some(within) = worker.settings.borrow().idle_within {
            worker.sessions.end_idle(worker.clock.tick(), u32::try_from(within.as_secs()).unwrap_or(u32::MAX));
        }
    }
}
