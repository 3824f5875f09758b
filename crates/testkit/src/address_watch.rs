//! Which hosts have an address on their interface, looked at all the time.

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use pgbaton_types::BootTime;

use crate::clock;

/// Pause between two looks, each of which takes some milliseconds for each host.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(5);

/// Looks until it is dropped.
#[derive(Debug)]
pub struct AddressWatch {
    seen: Arc<Mutex<Seen>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Who had it, by number, and from when on: each change, in order.
    pub changes: Vec<(BootTime, Vec<usize>)>,
    /// Two hosts that had it at the same instant.
    pub twice: Option<(usize, usize)>,
}

impl AddressWatch {
    /// Begins to look at these namespaces, whose hosts have the numbers from 0.
    pub fn start(namespaces: Vec<String>, address: IpAddr) -> Self {
        let (seen, ends) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (shared, told) = (Arc::clone(&seen), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                look(&namespaces, address, &shared);
                // waits: the kernel is not asked more often than it takes to notice a change
                std::thread::sleep(INTERVAL);
            }
        });
        Self { seen, ends, thread: Some(thread) }
    }

    /// What was seen so far.
    pub fn so_far(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// Who has it now, by the last look.
    pub fn holders(&self) -> Vec<usize> {
        locked(&self.seen).changes.last().map(|(_, holders)| holders.clone()).unwrap_or_default()
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A look that panicked has said why.
            let _ = thread.join();
        }
    }
}

/// Whether the address is on an interface in this namespace.
pub fn has_address(namespace: &str, address: IpAddr) -> bool {
    let shown =
        Command::new("ip").args(["-n", namespace, "-o", "address", "show", "to"]).arg(address.to_string()).output();
    shown.is_ok_and(|shown| !shown.stdout.is_empty())
}

fn look(namespaces: &[String], address: IpAddr, seen: &Mutex<Seen>) {
    let has = |host: &usize| has_address(&namespaces[*host], address);
    let holders: Vec<usize> = (0..namespaces.len()).filter(has).collect();
    // One after the other is not at once: of two, the first still has it after the second was seen to have it.
    let twice = match holders[..] {
        [first, second, ..] if has(&first) => Some((first, second)),
        _ => None,
    };
    let mut seen = locked(seen);
    seen.twice = seen.twice.or(twice);
    if seen.changes.last().is_none_or(|(_, before)| *before != holders) {
        seen.changes.push((clock::now(), holders));
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
