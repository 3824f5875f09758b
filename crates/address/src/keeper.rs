use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_types::{BootTime, Epoch};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::settings::Settings;
use crate::status::Status;
use crate::worker::{Order, Worker};

/// Stack of each thread, in bytes: nothing deep is called.
pub(crate) const STACK_BYTES: usize = 256 * 1024;

/// Tells the thread that keeps the addresses. Nothing here waits, but [`Released::within`].
#[derive(Debug)]
pub struct Keeper {
    orders: Mutex<Sender<Order>>,
    status: Arc<Mutex<Status>>,
}

/// A removal that was asked for.
#[derive(Debug)]
pub struct Released(oneshot::Receiver<()>);

impl Keeper {
    /// Starts the thread, and one for the scripts. It does nothing yet: addresses that are there stay as they are until it is told.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let worker = Worker::new(settings, inbox, Arc::clone(&status))?;
        std::thread::Builder::new().name("address".to_owned()).stack_size(STACK_BYTES).spawn(move || worker.run())?;
        Ok(Self { orders: Mutex::new(orders), status })
    }

    /// This host has the addresses in this reign, until `end` unless that is moved on: they are put there if they are not.
    pub fn hold(&self, epoch: Epoch, end: BootTime) {
        self.tell(Order::Hold { epoch, end });
    }

    /// What a life of the agent before this one has left stays as it is in this reign: an address that is there is held, and no other. Later it
    /// changes nothing.
    pub fn keep(&self, epoch: Epoch, end: BootTime) {
        self.tell(Order::Keep { epoch, end });
    }

    /// The end has moved on, if the addresses are still held in this reign.
    pub fn prolong(&self, epoch: Epoch, end: BootTime) {
        self.tell(Order::Prolong { epoch, end });
    }

    /// This host does not have the addresses: they are taken away wherever they come from, but for those without a lifetime.
    #[must_use]
    pub fn release(&self) -> Released {
        let (done, waits) = oneshot::channel();
        self.tell(Order::Release { done });
        Released(waits)
    }

    /// The agent ends: as [`Self::release`]; done when the scripts have ended, too.
    #[must_use]
    pub fn finish(&self) -> Released {
        let (done, waits) = oneshot::channel();
        self.tell(Order::Finish { done });
        Released(waits)
    }

    /// How the addresses fare.
    pub fn status(&self) -> Status {
        locked(&self.status).clone()
    }

    fn tell(&self, order: Order) {
        // It fails when the thread has panicked. Addresses then run out by themselves.
        if locked(&self.orders).send(order).is_err() {
            tracing::error!("what keeps the virtual address has failed; this is a bug");
        }
    }
}

impl Released {
    /// Waits until it is done, at most for `limit`; says whether it is.
    pub async fn within(self, limit: Duration) -> bool {
        matches!(timeout(limit, self.0).await, Ok(Ok(())))
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
