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
    /// The sessions of a port that is no more may go on, and begin, for so long.
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

/// Lets the sessions of a port go on for a while, and those begin that are on their way.
fn drain(worker: &Rc<Worker>, port: Arc<Port>, within: Duration) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        sleep(within).await;
        // In one turn: a session of this worker either is among the others already, or does not begin.
        port.end();
        worker.sessions.end(Why::Stop, |of, _| of.is(&port));
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
        Refused::Cancelled | Refused::Left | Refused::Startup(StartupError::Gone) => {}
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use pgbaton_api::{Baton, ServerAt, View};
    use pgbaton_types::Epoch;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};
    use tokio::time::timeout;

    use super::*;
    use crate::settings::{Mode, PortSettings};

    /// Nothing takes so long.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// What is not to end anything here.
    const LONG: Duration = Duration::from_secs(3600);
    /// A first packet in plain text.
    const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0me\0\0";
    /// One that asks for encryption.
    const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
    /// How a server begins that lets a client in.
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0";

    /// A worker with one port, that knows no server.
    struct Tried {
        worker: Rc<Worker>,
        port: Arc<Port>,
        listener: TcpListener,
        routes: watch::Sender<Routes>,
    }

    /// Has a worker tried on a runtime of its own.
    fn tried(test: impl AsyncFnOnce(Tried)) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let test = async { test(Tried::new().await).await };
        runtime.block_on(async { timeout(PATIENCE, test).await }).unwrap();
    }

    impl Tried {
        async fn new() -> Self {
            let (routes, known) = watch::channel(Routes::new(LONG));
            let settings = Settings {
                ports: Vec::new(),
                sessions_max: 10,
                held_max: 10,
                hold_within: LONG,
                connect_within: LONG,
                startup_within: LONG,
                idle_within: None,
                drain_within: LONG,
                lease: LONG,
                workers: 1,
            };
            let shared = Shared {
                routes: known,
                load: Load::default(),
                held: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                sessions_max: Arc::default(),
                workers: Vec::new(),
            };
            let worker = Rc::new(Worker {
                number: 0,
                shared: Arc::new(shared),
                settings: RefCell::new(Arc::new(settings)),
                sessions: Rc::default(),
                pumps: Rc::new(Pumps::new().unwrap()),
                clock: Clock::default(),
            });
            spawn_local(copy_all(Rc::clone(&worker)));
            let (name, listen) = ("rw".to_owned(), String::new());
            let settings = PortSettings { name, listen, mode: Mode::ReadWrite, accept_proxy: false, send_proxy: false };
            let port = Arc::new(Port::new(settings));
            Self { worker, port, listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), routes }
        }

        /// A client that the worker serves, and that has said something.
        async fn client(&self, says: &[u8]) -> TcpStream {
            let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (stream, from) = self.listener.accept().await.unwrap();
            self.worker.open.fetch_add(1, Ordering::Relaxed);
            serve(&self.worker, Accepted { port: Arc::clone(&self.port), stream, from });
            client.write_all(says).await.unwrap();
            client
        }

        /// Has a primary known.
        async fn primary(&self) -> TcpListener {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = ServerAt {
                name: "a".parse().unwrap(),
                host: "127.0.0.1".to_owned(),
                port: server.local_addr().unwrap().port(),
                api: None,
                timeline: None,
                lag: None,
                streaming: false,
                tags: serde_json::Map::new(),
            };
            let (leader, epoch) = (Some(at.name.clone()), Some(Epoch(1)));
            let baton = Baton { epoch, leader, primary: Some(at), ..Baton::default() };
            let as_of = Some(BootTime(pgbaton_sys::clock::boottime()));
            self.routes.send_modify(|routes| routes.take(View { baton, as_of, ..View::default() }));
            server
        }

        /// The port, as a reload has made it that kept it.
        fn reloaded(&self) -> Arc<Port> {
            Arc::new(self.port.with(self.port.settings.clone()))
        }

        /// Waits until so many connections wait for a server.
        async fn held(&self, wanted: usize) {
            while self.worker.held.load(Ordering::Relaxed) != wanted {
                yield_now().await;
            }
        }

        /// Waits until no connection is left.
        async fn left(&self) {
            while self.worker.open.load(Ordering::Relaxed) > 0 {
                yield_now().await;
            }
        }
    }

    async fn read(from: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        from.read_exact(&mut read).await.unwrap();
        read
    }

    #[test]
    fn who_goes_while_it_waits_leaves_its_place_at_once() {
        tried(async |tried| {
            let early = [STARTUP, &[0; 4096]].concat();
            let hello = [&b"\x16\x03\x01"[..], &[0; 4096]].concat();
            for says in [STARTUP, SSL_REQUEST, &early, &hello] {
                let client = tried.client(says).await;
                tried.held(1).await;
                drop(client);
                tried.left().await;
                let counters = &tried.port.counters;
                assert_eq!(tried.worker.held.load(Ordering::Relaxed), 0);
                assert_eq!(counters.held.load(Ordering::Relaxed), 0);
                assert_eq!(counters.refused.load(Ordering::Relaxed), 0);
            }
        });
    }

    #[test]
    fn a_reset_is_heard_of_who_waits() {
        tried(async |tried| {
            let client = tried.client(STARTUP).await;
            tried.held(1).await;
            reset_at_close(&client);
            drop(client);
            tried.left().await;
            assert_eq!(tried.worker.held.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn what_a_client_says_while_it_waits_is_read_when_there_is_a_server() {
        tried(async |tried| {
            let mut client = tried.client(&[SSL_REQUEST, STARTUP].concat()).await;
            tried.held(1).await;
            // What it has said is known to the runtime before the server is.
            let mut other = tried.client(SSL_REQUEST).await;
            tried.held(2).await;
            other.shutdown().await.unwrap();
            tried.held(1).await;
            let (mut server, _) = tried.primary().await.accept().await.unwrap();
            assert_eq!(read(&mut server, SSL_REQUEST.len()).await, SSL_REQUEST);
            server.write_all(b"N").await.unwrap();
            assert_eq!(read(&mut server, STARTUP.len()).await, STARTUP);
            server.write_all(WELCOME).await.unwrap();
            assert_eq!(read(&mut client, 1 + WELCOME.len()).await, [b"N", WELCOME].concat());
        });
    }

    #[test]
    fn who_waits_at_a_port_that_is_no_more_hears_it_when_its_time_is_over() {
        tried(async |tried| {
            let mut client = tried.client(STARTUP).await;
            tried.held(1).await;
            drain(&tried.worker, tried.reloaded(), Duration::ZERO);
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert!(heard.contains("pgbaton router: a reload took the port away"), "{heard}");
            tried.left().await;
            assert_eq!(tried.worker.held.load(Ordering::Relaxed), 0);
            assert_eq!(tried.port.counters.refused.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn who_waits_at_a_port_that_is_no_more_has_a_session_until_its_time_is_over() {
        tried(async |tried| {
            let mut client = tried.client(STARTUP).await;
            tried.held(1).await;
            drain(&tried.worker, tried.reloaded(), LONG);
            let (mut server, _) = tried.primary().await.accept().await.unwrap();
            server.write_all(WELCOME).await.unwrap();
            assert_eq!(read(&mut client, WELCOME.len()).await, WELCOME);
        });
    }

    #[test]
    fn no_session_begins_at_a_port_whose_time_is_over() {
        tried(async |tried| {
            let server = tried.primary().await;
            let mut late = tried.client(&STARTUP[..4]).await;
            let mut client = tried.client(STARTUP).await;
            let (mut first, _) = server.accept().await.unwrap();
            first.write_all(WELCOME).await.unwrap();
            assert_eq!(read(&mut client, WELCOME.len()).await, WELCOME);
            drain(&tried.worker, tried.reloaded(), Duration::ZERO);
            assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            late.write_all(&STARTUP[4..]).await.unwrap();
            let mut heard = String::new();
            late.read_to_string(&mut heard).await.unwrap();
            assert!(heard.contains("pgbaton router: a reload took the port away"), "{heard}");
            tried.left().await;
            let second = server.into_std().unwrap().accept();
            assert_eq!(second.unwrap_err().kind(), ErrorKind::WouldBlock, "a connection to the server");
        });
    }
}
