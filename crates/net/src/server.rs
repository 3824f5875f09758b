use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::socket;

/// Pause after a failed accept, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of an [`HttpServer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// The most connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// How long a client may take to send a request's head, also on a connection that is kept open.
    pub head_within: Duration,
    /// How long running requests may go on after [`HttpServer::stop`].
    pub stop_within: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections_max: 256, head_within: Duration::from_secs(10), stop_within: Duration::from_secs(2) }
    }
}

/// An HTTP/1 server: our own loop around hyper, because axum's `serve` has no limits.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Serves `service` (such as an axum router behind `hyper_util::service::TowerToHyperService`) on a bound listener.
    pub fn start<S, B>(listener: TcpListener, service: S, limits: ServerLimits) -> io::Result<Self>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Future<Output = Result<Response<B>, Infallible>> + Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = Some(tokio::spawn(accept_all(listener, service, limits, stopped)));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, lets running requests end within the limit, then closes.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // The only errors are "cancelled" and a panic, which the runtime has reported.
            let _ = task.await;
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn accept_all<S, B>(listener: TcpListener, service: S, limits: ServerLimits, mut stopped: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Future<Output = Result<Response<B>, Infallible>> + Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = ended(&mut stopped) => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Ok((stream, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (service, stopped) = (service.clone(), stopped.clone());
        connections.spawn(async move {
            serve(stream, service, limits, stopped).await;
            drop(permit);
        });
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.stop_within, rest).await.is_err() {
        tracing::warn!(open = connections.len(), "HTTP connections were closed before their requests had ended");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _from) = listener.accept().await.inspect_err(|error| {
        tracing::warn!(%error, "an HTTP connection could not be accepted");
    })?;
    socket::tune(&stream)?;
    Ok((stream, permit))
}

async fn serve<S, B>(stream: TcpStream, service: S, limits: ServerLimits, mut stopped: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ended(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// Waits until the server is to stop; also when it was dropped.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    // The guard inside the answer is not `Send` and must not live over the caller's next await.
    drop(stopped.wait_for(|stop| *stop).await);
}
