use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_api::View;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::sleep;

use crate::connect;
use crate::counters::count;
use crate::port::Port;
use crate::routes::Routes;
use crate::settings::{PortSettings, Settings};
use crate::worker::{self, Accepted, Load, Order, Shared};

/// Connections that the kernel keeps until they are accepted: as many as PostgreSQL's clients come with at once after a failover.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Why a router cannot be started, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A port cannot be had.
    #[error("the port {name} cannot listen at {listen}")]
    Listen {
        /// The port's name.
        name: String,
        /// Where it was to listen.
        listen: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// systemd has not opened the socket.
    #[error("the port {name} is to use the socket {socket} of systemd, which has not handed over one of that name")]
    NoSocket {
        /// The port's name.
        name: String,
        /// The socket's name.
        socket: String,
    },
    /// The system refuses something.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running router.
pub struct Router {
    shared: Arc<AcceptorShared>,
    ports: Vec<(Arc<Port>, SocketAddr)>,
    inherited: BTreeMap<String, TcpListener>,
    orders: mpsc::UnboundedSender<Change>,
    threads: Vec<JoinHandle<()>>,
    drain_within: Duration,
}

/// What the accepting thread is told.
enum Change {
    Serve(Arc<Port>, TcpListener),
    Replace(Arc<Port>),
    Close(Arc<Port>),
    Stop,
}

/// What the accepting thread needs.
struct AcceptorShared {
    /// Connections, sessions or not.
    open: Arc<AtomicUsize>,
    sessions_max: AtomicUsize,
    workers: Mutex<Vec<mpsc::UnboundedSender<Order>>>,
}

impl Router {
    /// Opens its ports and serves. `views` says where the baton is; `inherited` are sockets that systemd has opened, by name.
    ///
    /// # Errors
    /// A port that cannot be had, or threads that cannot be made.
    pub fn start(
        settings: Settings,
        views: watch::Receiver<View>,
        inherited: BTreeMap<String, TcpListener>,
    ) -> Result<Self, RouterError> {
        let settings = Arc::new(settings);
        let system = |what| move |source| RouterError::System { what, source };
        let (route, routes) = watch::channel(Routes::new(settings.lease));
        let shared = Arc::new(AcceptorShared {
            open: Arc::default(),
            sessions_max: AtomicUsize::new(settings.sessions_max),
            workers: Mutex::default(),
        });
        let (load, held) = (Arc::new(Load::default()), Arc::new(AtomicUsize::new(0)));
        let (orders, changes) = mpsc::unbounded_channel();
        let mut this = Self {
            shared: Arc::clone(&shared),
            ports: Vec::new(),
            inherited,
            orders,
            threads: Vec::new(),
            drain_within: settings.drain_within,
        };
        // Before any thread: a port that cannot be had leaves nothing behind.
        this.open_ports(&settings.ports)?;
        for number in 0..settings.workers.max(1) {
            let worker = Shared {
                routes: routes.clone(),
                load: Arc::clone(&load),
                held: Arc::clone(&held),
                open: Arc::clone(&shared.open),
            };
            let (orders, queue) = mpsc::unbounded_channel();
            let runtime = Builder::new_current_thread().enable_all().build().map_err(system("make a runtime"))?;
            let settings = Arc::clone(&settings);
            let thread = std::thread::Builder::new()
                .name(format!("router-{number}"))
                .spawn(move || LocalSet::new().block_on(&runtime, worker::run(worker, settings, queue)))
                .map_err(system("start a thread"))?;
            shared.workers().push(orders);
            this.threads.push(thread);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(system("make a runtime"))?;
        let thread = std::thread::Builder::new()
            .name("router-accept".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, accept_all(shared, views, route, changes)))
            .map_err(system("start a thread"))?;
        this.threads.push(thread);
        Ok(this)
    }

    /// Its ports, with where they listen.
    pub fn ports(&self) -> &[(Arc<Port>, SocketAddr)] {
        &self.ports
    }

    /// Takes other settings. A port that listens where one did before keeps its sessions, which end as they began; those of a port that is no
    /// more may go on for a while. Number of threads and lease stay.
    ///
    /// # Errors
    /// A port that cannot be had: nothing has changed then.
    pub fn reload(&mut self, settings: Settings) -> Result<(), RouterError> {
        let gone: Vec<Arc<Port>> = {
            let stays =
                |port: &&(Arc<Port>, SocketAddr)| settings.ports.iter().any(|new| new.listen == port.0.settings.listen);
            self.ports.iter().filter(|port| !stays(port)).map(|(port, _)| Arc::clone(port)).collect()
        };
        self.open_ports(&settings.ports)?;
        self.drain_within = settings.drain_within;
        self.shared.sessions_max.store(settings.sessions_max, Ordering::Relaxed);
        self.ports.retain(|(port, _)| !gone.iter().any(|gone| Arc::ptr_eq(gone, port)));
        let settings = Arc::new(settings);
        for port in gone {
            self.tell_workers(|| Order::Drain(Arc::clone(&port), settings.drain_within));
            self.tell(Change::Close(port));
        }
        self.tell_workers(|| Order::Settings(Arc::clone(&settings)));
        Ok(())
    }

    /// Accepts nothing more, lets sessions end by themselves for a while, and ends those that are left. Blocks for as long.
    pub fn stop(self) {
        self.tell(Change::Stop);
        self.tell_workers(|| Order::Stop(self.drain_within));
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the router ended by a panic; this is a bug");
            }
        }
    }

    /// Opens those ports that are not open yet, all or none, and gives the others their settings.
    fn open_ports(&mut self, wanted: &[PortSettings]) -> Result<(), RouterError> {
        let mut new = Vec::new();
        let mut changed = Vec::new();
        for settings in wanted {
            match self.ports.iter().position(|(port, _)| port.settings.listen == settings.listen) {
                Some(at) => changed.push((at, settings.clone())),
                None => new.push((settings.clone(), self.listen(settings)?)),
            }
        }
        for (settings, (listener, address)) in new {
            let port = Arc::new(Port { settings, counters: Arc::default() });
            self.ports.push((Arc::clone(&port), address));
            self.tell(Change::Serve(port, listener));
        }
        for (at, settings) in changed {
            let port = Arc::new(Port { settings, counters: Arc::clone(&self.ports[at].0.counters) });
            self.ports[at].0 = Arc::clone(&port);
            self.tell(Change::Replace(port));
        }
        Ok(())
    }

    fn listen(&self, port: &PortSettings) -> Result<(TcpListener, SocketAddr), RouterError> {
        let failed = |source| RouterError::Listen { name: port.name.clone(), listen: port.listen.clone(), source };
        let listener = match port.listen.strip_prefix("systemd:") {
            Some(socket) => {
                let none = || RouterError::NoSocket { name: port.name.clone(), socket: socket.to_owned() };
                self.inherited.get(socket).ok_or_else(none)?.try_clone().map_err(failed)?
            }
            None => bind(&port.listen).map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((listener, address))
    }

    fn tell(&self, change: Change) {
        // A thread that has ended accepts nothing any more.
        let _ = self.orders.send(change);
    }

    fn tell_workers(&self, order: impl Fn() -> Order) {
        for worker in self.shared.workers().iter() {
            // A worker that has ended needs no order.
            let _ = worker.send(order());
        }
    }
}

/// The standard library's listener has a short backlog: this one's is set anew.
fn bind(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

impl AcceptorShared {
    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::UnboundedSender<Order>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port that is served.
struct Served {
    port: watch::Sender<Arc<Port>>,
    task: AbortHandle,
}

async fn accept_all(
    shared: Arc<AcceptorShared>,
    views: watch::Receiver<View>,
    route: watch::Sender<Routes>,
    mut changes: mpsc::UnboundedReceiver<Change>,
) {
    let following = spawn_local(follow(views, route));
    let mut served: Vec<Served> = Vec::new();
    let same = |served: &Served, port: &Arc<Port>| Arc::ptr_eq(&served.port.borrow().counters, &port.counters);
    // Without anybody who could change it, it ends as well.
    while let Some(change) = changes.recv().await {
        match change {
            Change::Serve(port, listener) => match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (port, current) = watch::channel(port);
                    let task = spawn_local(accept(Arc::clone(&shared), current, listener)).abort_handle();
                    served.push(Served { port, task });
                }
                Err(error) => tracing::error!(%error, port = %port.settings.name, "the port cannot be served"),
            },
            Change::Replace(port) => {
                if let Some(served) = served.iter().find(|served| same(served, &port)) {
                    served.port.send_replace(port);
                }
            }
            Change::Close(port) => {
                for closed in served.extract_if(.., |served| same(served, &port)) {
                    closed.task.abort();
                }
            }
            Change::Stop => break,
        }
    }
    for closed in served {
        closed.task.abort();
    }
    // Views are followed as long as sessions go on.
    let workers = shared.workers().clone();
    for worker in workers {
        worker.closed().await;
    }
    following.abort();
}

async fn accept(shared: Arc<AcceptorShared>, port: watch::Receiver<Arc<Port>>, listener: tokio::net::TcpListener) {
    let mut next = 0;
    loop {
        let accepted = listener.accept().await;
        let port = Arc::clone(&port.borrow());
        let name = &port.settings.name;
        let accepted = accepted.and_then(|(stream, from)| {
            connect::tune(&stream)?;
            Ok((stream.into_std()?, from))
        });
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, port = %name, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        count(&port.counters.accepted);
        let most = shared.sessions_max.load(Ordering::Relaxed);
        if shared.open.fetch_add(1, Ordering::Relaxed) >= most {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            count(&port.counters.refused);
            tracing::warn!(port = %name, client = %from, most, "a connection was refused: there are too many");
            continue;
        }
        let workers = shared.workers();
        next = (next + 1) % workers.len().max(1);
        let sent = workers
            .get(next)
            .map(|worker| worker.send(Order::Serve(Accepted { port: Arc::clone(&port), stream, from })));
        if !matches!(sent, Some(Ok(()))) {
            shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Makes routes of views.
async fn follow(mut views: watch::Receiver<View>, route: watch::Sender<Routes>) {
    loop {
        let view = views.borrow_and_update().clone();
        route.send_modify(|routes| {
            let before = routes.highest();
            routes.take(view);
            if let Some(epoch) = routes.highest().filter(|_| routes.highest() != before) {
                let leader = routes.view().baton.leader.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::info!(%epoch, leader, "another reign");
            }
        });
        if views.changed().await.is_err() {
            // Whoever follows the store has gone: the newest view becomes too old.
            std::future::pending::<()>().await;
        }
    }
}
