//! From an accepted connection to a session: the first packet, a server, and its first answer. Whoever comes between two primaries waits here.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgbaton_types::BootTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::{self, Answer};
use crate::counters::{Gauge, count};
use crate::port::Port;
use crate::routes::{Bound, NoRoute, Routes};
use crate::startup::{First, StartupError};
use crate::worker::{Accepted, Worker};
use crate::{cancel, connect, proxy, startup};

/// Pause after a server that should take connections did not: it starts, or the view is about to say so.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// What a server answers that does not encrypt (PostgreSQL documentation, "Message Formats": `SSLRequest`).
const DECLINED: &[u8] = b"N";
/// The longest first answer of a server that is kept: a client waits for it before it says more.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What a server says first when it lets a client in, with the parameters that it reports: 420 bytes and more with PostgreSQL 15. It is read at
/// once, so that the client is not woken for the beginning alone.
const ANSWER_BYTES: usize = 1 << 10;

/// A session that can begin.
pub(crate) struct Established {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    /// What the server has said already.
    pub(crate) said: Vec<u8>,
    pub(crate) bound: Rc<Bound>,
}

/// Why no session begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It was no session that was wanted, and all is done.
    #[error("a cancel request was passed on")]
    Cancelled,
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Proxy(#[from] proxy::ProxyError),
    #[error("the client took too long")]
    Slow,
    /// It does not wait any longer: nobody is there to be told.
    #[error("the client ended its connection while it waited for a server")]
    Left,
    #[error("a reload took the port away")]
    Closed,
    #[error("too many connections wait for a server")]
    Crowded,
    #[error("{0}; it waited for {1} s")]
    NoRoute(NoRoute, u64),
    #[error("no server took the connection in time, the last was {server}")]
    NoServer {
        server: String,
        #[source]
        source: io::Error,
    },
}

/// Makes a session of a connection.
pub(crate) async fn establish(worker: &Rc<Worker>, accepted: Accepted) -> Result<Established, Refused> {
    let Accepted { port, mut stream, mut from } = accepted;
    let settings = worker.settings();
    let first = async {
        let mut already = Vec::new();
        if port.settings.accept_proxy {
            let (client, rest) = proxy::read(&mut stream).await?;
            from = client.unwrap_or(from);
            already = rest;
        }
        Ok::<_, Refused>(startup::read(&mut stream, already).await?)
    };
    let mut first = timeout(settings.startup_within, first).await.map_err(|_| Refused::Slow)??;
    // A server that has declined to encrypt, and waits for the client as well.
    let mut ready = None;
    loop {
        let (packet, kind) = match first {
            First::Cancel(packet) => {
                count(&port.counters.cancels);
                let servers = worker.routes.borrow().all(&port.settings.mode);
                cancel::pass_on(&packet, servers, settings.connect_within).await;
                return Err(Refused::Cancelled);
            }
            First::Plain(packet) => (packet, Kind::Plain),
            First::Request(packet) => (packet, Kind::Request),
            First::Tls(packet) => (packet, Kind::Tls),
        };
        let wanted = Wanted { port: Arc::clone(&port), from, packet, kind };
        let found = tokio::select! {
            // First: what ends the sessions of the port has not seen this one.
            biased;
            () = port.over() => Err(Refused::Closed),
            found = find_server(worker, &stream, &wanted, ready.take()) => found,
        };
        let (server, said, bound) = match found {
            Ok(found) => found,
            Err(refused) => {
                if kind != Kind::Tls {
                    // Who has gone meanwhile hears nothing.
                    let _ = stream.write_all(&answer::refusal(&format!("pgbaton router: {refused}"))).await;
                }
                return Err(refused);
            }
        };
        if kind != Kind::Request || said != DECLINED {
            return Ok(Established { client: stream, server, said, bound: Rc::new(bound) });
        }
        let next = async {
            stream.write_all(&said).await.map_err(StartupError::Io)?;
            startup::read(&mut stream, Vec::new()).await
        };
        first = timeout(settings.startup_within, next).await.map_err(|_| Refused::Slow)??;
        ready = Some((server, bound));
    }
}

/// How a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Request,
    Tls,
}

/// What a client wants.
struct Wanted {
    port: Arc<Port>,
    from: SocketAddr,
    packet: Vec<u8>,
    kind: Kind,
}

/// A server that takes the connection, with what it has said already.
type Found = (TcpStream, Vec<u8>, Bound);

/// Tries servers until one takes the connection, for as long as a connection may be held and the client is there.
/// `ready`: one that has answered this client already.
async fn find_server(
    worker: &Rc<Worker>,
    client: &TcpStream,
    wanted: &Wanted,
    ready: Option<(TcpStream, Bound)>,
) -> Result<Found, Refused> {
    let settings = worker.settings();
    let give_up = Instant::now() + settings.hold_within;
    if let Some((server, bound)) = ready
        && let Ok(Some((server, said))) = begin(worker, wanted, server).await
    {
        return Ok((server, said, bound));
    }
    let mut routes = worker.routes.clone();
    let failed = match try_once(worker, wanted, &mut routes).await {
        Ok(found) => return Ok(found),
        Err(failed) => failed,
    };
    let _held = Held::new(worker, &wanted.port, settings.held_max)?;
    tokio::select! {
        // Who has gone gets no connection to the server that the same moment brings.
        biased;
        () = left(client) => Err(Refused::Left),
        found = keep_trying(worker, wanted, routes, failed, give_up) => found,
    }
}

/// Waits until the client has ended its connection, or lost it. What it says meanwhile stays for who reads it, and wakes nobody here. Who has
/// ended its own half only has left, too: no client of PostgreSQL's does that before it has had an answer.
async fn left(client: &TcpStream) {
    // The runtime tells the end of a connection to whoever waits for urgent data, too. Urgent data itself it was not asked to look for, so that
    // nothing else ends this; an error says that the runtime itself ends.
    let _ = client.ready(Interest::PRIORITY).await;
}

/// Tries servers, as [`find_server`] does, of which one has `failed`.
async fn keep_trying(
    worker: &Rc<Worker>,
    wanted: &Wanted,
    mut routes: watch::Receiver<Routes>,
    mut failed: Refused,
    give_up: Instant,
) -> Result<Found, Refused> {
    loop {
        if Instant::now() >= give_up {
            return Err(failed);
        }
        // Without a server nothing helps but a newer view; one that should take connections may in a moment.
        let again = if matches!(failed, Refused::NoRoute(..)) { give_up } else { Instant::now() + RETRY_PAUSE };
        if let Ok(Err(_)) = timeout_at(again, routes.changed()).await {
            // Nobody makes views any more: the router ends.
            return Err(failed);
        }
        failed = match try_once(worker, wanted, &mut routes).await {
            Ok(found) => return Ok(found),
            Err(failed) => failed,
        };
    }
}

/// Tries the server that the newest view names.
async fn try_once(
    worker: &Rc<Worker>,
    wanted: &Wanted,
    routes: &mut watch::Receiver<Routes>,
) -> Result<Found, Refused> {
    let bound = route(worker, &wanted.port, routes)
        .map_err(|none| Refused::NoRoute(none, worker.settings().hold_within.as_secs()))?;
    let source = match try_server(worker, wanted, &bound).await {
        Ok(Some((server, said))) => return Ok((server, said, bound)),
        Ok(None) => io::ErrorKind::ConnectionRefused.into(),
        Err(source) => source,
    };
    Err(Refused::NoServer { server: bound.address, source })
}

fn route(worker: &Worker, port: &Port, routes: &mut watch::Receiver<Routes>) -> Result<Bound, NoRoute> {
    let now = BootTime(pgbaton_sys::clock::boottime());
    let load = |member: &pgbaton_types::MemberName| worker.load.of(member);
    routes.borrow_and_update().route(&port.settings.mode, now, load)
}

/// Connects and begins. None: the server takes no connections at the moment.
async fn try_server(worker: &Worker, wanted: &Wanted, bound: &Bound) -> io::Result<Option<(TcpStream, Vec<u8>)>> {
    let mut server = connect::to(&bound.address, worker.settings().connect_within).await?;
    if wanted.port.settings.send_proxy {
        server.write_all(&proxy::write(wanted.from, server.peer_addr()?)).await?;
    }
    begin(worker, wanted, server).await
}

/// Sends the client's packet, and reads the server's answer as far as it can be read.
async fn begin(worker: &Worker, wanted: &Wanted, mut server: TcpStream) -> io::Result<Option<(TcpStream, Vec<u8>)>> {
    let within = worker.settings().connect_within;
    server.write_all(&wanted.packet).await?;
    if wanted.kind == Kind::Tls {
        return Ok(Some((server, Vec::new())));
    }
    let mut said = Vec::with_capacity(ANSWER_BYTES);
    loop {
        let read = timeout(within, server.read_buf(&mut said)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if read == 0 && said.is_empty() {
            // A server that stops ends connections without a word.
            return Ok(None);
        }
        match answer::read(&said) {
            Answer::NotNow => return Ok(None),
            Answer::Incomplete if read > 0 && said.len() < ANSWER_BYTES_MAX => {}
            Answer::Incomplete | Answer::Pass => return Ok(Some((server, said))),
        }
    }
}

/// One of the connections that wait.
struct Held<'a> {
    all: &'a AtomicUsize,
    _port: Gauge<'a>,
}

impl<'a> Held<'a> {
    fn new(worker: &'a Worker, port: &'a Port, most: usize) -> Result<Self, Refused> {
        let before = worker.held.fetch_add(1, Ordering::Relaxed);
        let held = Self { all: &worker.held, _port: Gauge::up(&port.counters.held) };
        if before >= most { Err(Refused::Crowded) } else { Ok(held) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}
