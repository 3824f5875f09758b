use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_api::View;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::connect;
use crate::port::Port;
use crate::pumps::Pumps;
use crate::routes::Routes;
use crate::settings::{PortSettings, SYSTEMD, Settings};
use crate::worker::{self, Load, Order, Shared};

/// Connections that the kernel keeps until they are accepted: as many as PostgreSQL's clients come with at once after a failover.
const BACKLOG: i32 = 4096;

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
    sessions_max: Arc<AtomicUsize>,
    ports: Vec<Open>,
    inherited: BTreeMap<String, TcpListener>,
    workers: Vec<mpsc::UnboundedSender<Order>>,
    threads: Vec<JoinHandle<()>>,
    drain_within: Duration,
}

/// A port that is open.
struct Open {
    address: SocketAddr,
    /// As it is served now. It is closed when this is dropped.
    port: watch::Sender<Arc<Port>>,
}

impl Open {
    fn port(&self) -> Arc<Port> {
        Arc::clone(&self.port.borrow())
    }
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
        let (route, routes) = watch::channel(Routes::new(settings.lease));
        let (workers, queues): (Vec<_>, Vec<_>) =
            (0..settings.workers.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let sessions_max = Arc::new(AtomicUsize::new(settings.sessions_max));
        let shared = Arc::new(Shared {
            routes,
            load: Load::default(),
            held: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            sessions_max: Arc::clone(&sessions_max),
            workers: workers.iter().map(mpsc::UnboundedSender::downgrade).collect(),
        });
        let drain_within = settings.drain_within;
        let (ports, threads) = (Vec::new(), Vec::new());
        let mut this = Self { sessions_max, ports, inherited, workers, threads, drain_within };
        // Before any thread: a port that cannot be had leaves nothing behind.
        this.open_ports(&settings.ports)?;
        for (number, queue) in queues.into_iter().enumerate() {
            let (shared, settings) = (Arc::clone(&shared), Arc::clone(&settings));
            this.begin(format!("router-{number}"), move || {
                Ok(worker::run(number, shared, settings, queue, Pumps::new()?))
            })?;
        }
        // Only workers hold it: with the last of them the views end.
        drop(shared);
        this.begin("router-views".to_owned(), move || Ok(follow(views, route)))?;
        Ok(this)
    }

    /// Begins a thread with a runtime of its own, which cannot leave it.
    fn begin<F: Future<Output = ()>>(
        &mut self,
        name: String,
        work: impl FnOnce() -> io::Result<F> + Send + 'static,
    ) -> Result<(), RouterError> {
        let system = |what| move |source| RouterError::System { what, source };
        let (made, outcome) = std::sync::mpsc::channel();
        let run = move || {
            // Whoever has begun it waits for what is sent.
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            // Inside the runtime: what the work needs may be its.
            let begun = runtime.and_then(|runtime| runtime.block_on(async { work() }).map(|work| (runtime, work)));
            match begun {
                Ok((runtime, work)) => {
                    let _ = made.send(Ok(()));
                    runtime.block_on(work);
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(run).map_err(system("start a thread"))?;
        self.threads.push(thread);
        let made = outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        made.map_err(system("make the runtime of a thread"))
    }

    /// Its ports, with where they listen.
    pub fn ports(&self) -> Vec<(Arc<Port>, SocketAddr)> {
        self.ports.iter().map(|open| (open.port(), open.address)).collect()
    }

    /// Takes other settings. A port that listens where one did before keeps its sessions, which end as they began; those of a port that is no
    /// more may go on for a while, and who waits there for a server may wait for as long. Number of threads and lease stay.
    ///
    /// # Errors
    /// A port that cannot be had: nothing has changed then.
    pub fn reload(&mut self, settings: Settings) -> Result<(), RouterError> {
        let before: Vec<Arc<Port>> = self.ports.iter().map(Open::port).collect();
        self.open_ports(&settings.ports)?;
        self.drain_within = settings.drain_within;
        self.sessions_max.store(settings.sessions_max, Ordering::Relaxed);
        let stays = |port: &Port| settings.ports.iter().any(|new| new.listen == port.settings.listen);
        self.ports.retain(|open| stays(&open.port.borrow()));
        for port in before.into_iter().filter(|port| !stays(port)) {
            self.tell_workers(|| Order::Drain(Arc::clone(&port), settings.drain_within));
        }
        let settings = Arc::new(settings);
        self.tell_workers(|| Order::Settings(Arc::clone(&settings)));
        Ok(())
    }

    /// Accepts nothing more, lets sessions end by themselves for a while, and ends those that are left. Blocks for as long.
    pub fn stop(mut self) {
        self.ports.clear();
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
            match self.ports.iter().position(|open| open.port.borrow().settings.listen == settings.listen) {
                Some(at) => changed.push((at, settings.clone())),
                None => new.push((settings.clone(), self.listen(settings)?)),
            }
        }
        for (at, settings) in changed {
            let port = self.ports[at].port().with(settings);
            self.ports[at].port.send_replace(Arc::new(port));
        }
        for (settings, (listener, address)) in new {
            let (port, served) = watch::channel(Arc::new(Port::new(settings)));
            // Ports are spread over the workers; each hands its connections to all.
            let worker = &self.workers[self.ports.len() % self.workers.len()];
            if worker.send(Order::Accept(served, listener)).is_err() {
                let name = &port.borrow().settings.name;
                tracing::error!(port = %name, "nobody accepts at the port: a thread of the router has ended, which is a bug; restart it");
            }
            self.ports.push(Open { address, port });
        }
        Ok(())
    }

    fn listen(&self, port: &PortSettings) -> Result<(TcpListener, SocketAddr), RouterError> {
        let failed = |source| RouterError::Listen { name: port.name.clone(), listen: port.listen.clone(), source };
        let listener = match port.listen.strip_prefix(SYSTEMD) {
            Some(socket) => {
                let none = || RouterError::NoSocket { name: port.name.clone(), socket: socket.to_owned() };
                self.inherited.get(socket).ok_or_else(none)?.try_clone().map_err(failed)?
            }
            None => bind(&port.listen).map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        // Connections have the options of the socket that accepts them (tcp(7)).
        connect::tune(&listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((listener, address))
    }

    fn tell_workers(&self, order: impl Fn() -> Order) {
        for worker in &self.workers {
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

/// Makes routes of views, as long as anybody uses them.
async fn follow(mut views: watch::Receiver<View>, route: watch::Sender<Routes>) {
    let following = async {
        loop {
            let view = views.borrow_and_update().clone();
            route.send_modify(|routes| take(routes, view));
            if views.changed().await.is_err() {
                // Whoever follows the store has gone: the newest view becomes too old.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = route.closed() => {}
    }
}

fn take(routes: &mut Routes, view: View) {
    let before = routes.highest();
    routes.take(view);
    if let Some(epoch) = routes.highest().filter(|_| routes.highest() != before) {
        let leader = routes.view().baton.leader.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::info!(%epoch, leader, "another reign");
    }
}
