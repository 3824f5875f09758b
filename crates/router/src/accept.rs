//! Accepting connections, and which worker serves them.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::counters::count;
use crate::port::Port;
use crate::worker::{Accepted, Order, Worker, serve};

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
        let accepted = Accepted { port: Arc::clone(&port), stream, from };
        if next == worker.number {
            serve(worker, accepted);
        } else {
            hand_over(worker, next, accepted);
        }
        next = (next + 1) % worker.workers.len();
    }
}

/// Another worker serves it.
fn hand_over(worker: &Worker, next: usize, accepted: Accepted) {
    let Accepted { port, stream, from } = accepted;
    let sent = stream.into_std().map(|stream| {
        let order = Order::Serve(Accepted { port, stream, from });
        // One that has ended serves nobody any more.
        worker.workers[next].upgrade().is_some_and(|to| to.send(order).is_ok())
    });
    if !matches!(sent, Ok(true)) {
        worker.open.fetch_sub(1, Ordering::Relaxed);
    }
    if let Err(error) = sent {
        tracing::warn!(%error, "a connection cannot be served");
    }
}
