use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Connection, FrameError, PeerKey};

/// The most connections at a time: some for each of seven voters, with room for strangers who knock.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may be without a request.
const IDLE_MAX: Duration = Duration::from_mins(1);

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
    pub fn start(listener: TcpListener, key: PeerKey, handler: Arc<dyn PeerHandler>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept_all(listener, key, handler));
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

async fn accept_all(listener: TcpListener, key: PeerKey, handler: Arc<dyn PeerHandler>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this future: then every connection ends.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (key, handler) = (key.clone(), Arc::clone(&handler));
                connections.spawn(async move {
                    serve(stream, from, &key, handler.as_ref()).await;
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
