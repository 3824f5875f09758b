//! Accepting connections, and which worker serves them.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::connect;
use crate::counters::count;
use crate::port::Port;
use crate::settings::SYSTEMD;
use crate::worker::{Accepted, Order, Worker, serve, serve_from};

/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections of a port until nobody has it open any more. A thread of its own would be one more that has to wake for each.
pub(crate) async fn accept(worker: Rc<Worker>, mut port: watch::Receiver<Arc<Port>>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, port = %port.borrow().settings.name, "the port cannot be served");
            return;
        }
    };
    let current = port.clone();
    let closed = async { while port.changed().await.is_ok() {} };
    tokio::select! {
        () = closed => {}
        () = accept_all(&worker, &current, &listener) => {}
    }
}

async fn accept_all(worker: &Rc<Worker>, port: &watch::Receiver<Arc<Port>>, listener: &tokio::net::TcpListener) {
    let mut next = worker.number;
    loop {
        let accepted = listener.accept().await;
        let port = Arc::clone(&port.borrow());
        let name = &port.settings.name;
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, port = %name, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        count(&port.counters.accepted);
        let most = worker.sessions_max.load(Ordering::Relaxed);
        if worker.open.fetch_add(1, Ordering::Relaxed) >= most {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            count(&port.counters.refused);
            tracing::warn!(port = %name, client = %from, most, "a connection was refused: there are too many");
            continue;
        }
        // Who came before the router opened such a socket has options of its own.
        if port.settings.listen.starts_with(SYSTEMD)
            && let Err(error) = connect::tune(&stream)
        {
            tracing::debug!(%error, "a connection is used as it is");
        }
        let accepted = Accepted { port: Arc::clone(&port), stream, from };
        if next == worker.number {
            serve(worker, accepted);
        } else {
            hand_over(worker, next, accepted);
        }
        next = (next + 1) % worker.workers.len();
    }
}

/// Another worker serves it; this one, if that has ended.
fn hand_over(worker: &Rc<Worker>, next: usize, accepted: Accepted) {
    let Accepted { port, stream, from } = accepted;
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => {
            worker.open.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "a connection cannot be served");
            return;
        }
    };
    let order = Order::Serve(Accepted { port, stream, from });
    let refused = match worker.workers[next].upgrade() {
        Some(to) => to.send(order).err().map(|refused| refused.0),
        None => Some(order),
    };
    if let Some(Order::Serve(accepted)) = refused {
        serve_from(worker, accepted);
    }
}
