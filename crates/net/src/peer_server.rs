use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::socket::tune;
use crate::{Connection, FrameError, PeerKey};

/// The most connections at a time: some for each of seven voters, with room for strangers who knock.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may be without a request.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// How long the first two bytes of a connection may take.
const FIRST_BYTES_MAX: Duration = Duration::from_secs(2);

/// The pause before the second byte is looked for again: looking does not wait while the first one is there.
const SECOND_BYTE_PAUSE: Duration = Duration::from_millis(1);

/// The most connections of clients at a time, so that all of them together leave file descriptors to everything else: a process has
/// 1,024 unless somebody gives it more (`ulimit -n`).
const CLIENTS_MAX: usize = 512;

/// A client's connection. It counts until it is dropped.
#[derive(Debug)]
pub struct ClientConnection {
    /// The connection, of which nothing has been read.
    pub stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Where a kind of client's connections go.
pub type ClientSender = mpsc::Sender<io::Result<ClientConnection>>;

/// Where connections go that are not peers'; none: they are closed.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// Those that speak HTTP/2 in plain text.
    pub plain: Option<ClientSender>,
    /// Those that begin as TLS does.
    pub tls: Option<ClientSender>,
}

/// Who is at the other end, by the first two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Peer,
    /// HTTP/2 in plain text (RFC 9113, section 3.4). Its second byte tells it from a peer's.
    Plain,
    /// A handshake of TLS (RFC 8446, section 5.1).
    Tls,
}

/// Pause after a failed accept, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers the requests of peers. The answer must come within the caller's own deadline, which the request carries.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one request; `None` closes the connection without an answer.
    fn handle(&self, request: Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send + '_>>;

    /// A connection failed in a way that the administrator should know, such as a wrong password.
    fn report(&self, error: FrameError);
}

/// Accepts peers' connections and answers their requests, each connection one request after the other.
#[derive(Debug)]
pub struct PeerServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PeerServer {
    /// Serves on a listener that is bound already, until dropped.
    ///
    /// A connection that begins as HTTP/2 or TLS does is passed on to `clients`, and not asked for a peer's password.
    pub fn start(
        listener: TcpListener,
        key: PeerKey,
        handler: Arc<dyn PeerHandler>,
        clients: Clients,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept_all(listener, key, handler, clients));
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection, and waits until they are closed.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only errors are "cancelled", which was wanted, and a panic, which the runtime has reported.
        let _ = (&mut self.task).await;
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, key: PeerKey, handler: Arc<dyn PeerHandler>, clients: Clients) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let desk = Arc::new(Desk { clients, places: Arc::new(Semaphore::new(CLIENTS_MAX)), full: AtomicBool::new(false) });
    // Dropped with this future: then every connection ends.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (key, handler, desk) = (key.clone(), Arc::clone(&handler), Arc::clone(&desk));
                connections.spawn(async move {
                    match caller(&stream).await {
                        Caller::Peer => serve(stream, from, &key, handler.as_ref()).await,
                        other => desk.pass_on(stream, from, other).await,
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a peer's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where clients' connections are passed on.
struct Desk {
    clients: Clients,
    places: Arc<Semaphore>,
    /// Whether the last client found no place.
    full: AtomicBool,
}

impl Desk {
    async fn pass_on(&self, stream: TcpStream, from: SocketAddr, caller: Caller) {
        let clients = if caller == Caller::Tls { &self.clients.tls } else { &self.clients.plain };
        let Some(clients) = clients else {
            tracing::debug!(%from, ?caller, "a client's connection is not served here");
            return;
        };
        let place = Arc::clone(&self.places).try_acquire_owned();
        if place.is_err() != self.full.swap(place.is_err(), Ordering::Relaxed) && place.is_err() {
            tracing::warn!(%from, "there are {CLIENTS_MAX} connections of clients: no more are served until some of them end");
        }
        if let Err(error) = tune(&stream) {
            tracing::debug!(%from, %error, "a client's connection has ended already");
            return;
        }
        if let Ok(place) = place {
            // Fails when nobody serves clients any more; then the connection ends here.
            let _ = clients.send(Ok(ClientConnection { stream, _place: place })).await;
        }
    }
}

async fn caller(stream: &TcpStream) -> Caller {
    let mut bytes = [0; 2];
    let two = async {
        loop {
            match stream.peek(&mut bytes).await {
                Ok(1) => tokio::time::sleep(SECOND_BYTE_PAUSE).await,
                Ok(2) if bytes == *b"PR" => return Caller::Plain,
                Ok(2) if bytes == [0x16, 0x03] => return Caller::Tls,
                _ => return Caller::Peer,
            }
        }
    };
    tokio::time::timeout(FIRST_BYTES_MAX, two).await.unwrap_or(Caller::Peer)
}

async fn serve(stream: TcpStream, from: SocketAddr, key: &PeerKey, handler: &dyn PeerHandler) {
    let mut connection = match Connection::accept(stream, from, key).await {
        Ok(connection) => connection,
        Err(error) => return handler.report(error),
    };
    while let Ok(received) = tokio::time::timeout(IDLE_MAX, connection.receive()).await {
        let request = match received {
            Ok(request) => request,
            // The end of a connection is no news.
            Err(FrameError::Io { .. }) => return,
            Err(error) => return handler.report(error),
        };
        let Some(answer) = handler.handle(request).await else { return };
        if let Err(error) = connection.send(&answer).await {
            tracing::debug!(%error, "an answer was not delivered");
            return;
        }
    }
}
