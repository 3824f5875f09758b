//! The thread that keeps the addresses: whatever it is told, it looks at what is there and makes it what it should be.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_core::Bugs;
use pgbaton_core::address::{OVERSTAY_MAX, lifetime};
use pgbaton_sys::clock::boottime;
use pgbaton_sys::packet::PacketSocket;
use pgbaton_types::{BootTime, Epoch, chain};
use rustix::thread::{CapabilitySet, capabilities};
use tokio::sync::oneshot;

use crate::announcement::{self, Schedule};
use crate::error::AddressError;
use crate::keeper::locked;
use crate::netlink::{Found, Interface, Netlink};
use crate::scripts::{Runner, State};
use crate::settings::{ManagedBy, Prefixed, Settings};
use crate::status::Status;

/// Less of a second than this is not worth a second message to the kernel.
const WORTH_IT: Duration = Duration::from_millis(50);

/// How long before the moment at which a whole number of seconds is left the rest is given: a thread that wakes too late would give a second
/// less.
const EARLY: Duration = Duration::from_millis(20);
/// Pause before an address that could not be taken away is tried again: another host is about to have it.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    Hold { epoch: Epoch, end: BootTime },
    Keep { epoch: Epoch, end: BootTime },
    Prolong { epoch: Epoch, end: BootTime },
    Release { done: oneshot::Sender<()> },
    Finish { done: oneshot::Sender<()> },
}

/// Whose the addresses are, as it was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    Unknown,
    Held { epoch: Epoch, end: BootTime },
    Gone,
}

pub(crate) struct Worker {
    settings: Settings,
    inbox: Receiver<Order>,
    status: Arc<Mutex<Status>>,
    netlink: Option<Netlink>,
    packets: Option<PacketSocket>,
    scripts: Option<Runner>,
    holding: Holding,
    /// What the scripts were told last.
    told: Option<State>,
    /// The addresses that were put on the interface, and when the lifetime ends that they were given.
    put: BTreeMap<Prefixed, BootTime>,
    announces: Option<Schedule>,
    /// When to look again without being told.
    look_at: Option<BootTime>,
}

impl Worker {
    pub(crate) fn new(settings: Settings, inbox: Receiver<Order>, status: Arc<Mutex<Status>>) -> io::Result<Self> {
        let scripts = Runner::start(settings.clone())?;
        Ok(Self {
            settings,
            inbox,
            status,
            netlink: None,
            packets: None,
            scripts: Some(scripts),
            holding: Holding::Unknown,
            told: None,
            put: BTreeMap::new(),
            announces: None,
            look_at: None,
        })
    }

    pub(crate) fn run(mut self) {
        loop {
            let now = now();
            let due = self.announces.map(|schedule| schedule.next()).into_iter().chain(self.look_at).min();
            let order = match due {
                Some(due) => self.inbox.recv_timeout(due.since(now)),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Finish { done }) => return self.finish(done),
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => self.on_time(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Hold { epoch, end } => {
                self.holding = Holding::Held { epoch, end };
                self.make_it_so();
            }
            Order::Keep { epoch, end } => {
                if self.holding == Holding::Unknown && self.is_there() {
                    self.holding = Holding::Held { epoch, end };
                    self.make_it_so();
                }
            }
            Order::Prolong { epoch, end } => {
                if let Holding::Held { epoch: held, end: until } = &mut self.holding
                    && *held == epoch
                {
                    *until = end.max(*until);
                    self.make_it_so();
                }
            }
            Order::Release { done } => {
                self.holding = Holding::Gone;
                if self.make_it_so() {
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
            }
            Order::Finish { .. } => {}
        }
    }

    fn on_time(&mut self) {
        let now = now();
        if self.look_at.is_some_and(|at| now.reached(at)) {
            self.make_it_so();
        }
        if self.announces.is_some_and(|schedule| now.reached(schedule.next())) {
            self.announce();
        }
    }

    fn finish(mut self, done: oneshot::Sender<()>) {
        self.holding = Holding::Gone;
        self.make_it_so();
        self.tell_scripts(State::Stop);
        if let Some(scripts) = self.scripts.take()
            && !scripts.finish()
        {
            tracing::error!(
                "what runs the scripts of the address, or writes its state file, has failed; this is a bug"
            );
        }
        // Whoever asked may have given up waiting.
        let _ = done.send(());
    }

    /// Makes the interface what it should be, and says so. Whether that went well.
    fn make_it_so(&mut self) -> bool {
        self.look_at = None;
        let (mut problems, well) = if self.is_ours_to_put() { self.change() } else { (Vec::new(), true) };
        let state = match self.holding {
            Holding::Unknown => None,
            Holding::Held { epoch, .. } if well => Some(State::Master(epoch)),
            Holding::Held { epoch, .. } => Some(State::Fault(epoch)),
            Holding::Gone => Some(State::Backup),
        };
        if let Some(state) = state {
            self.tell_scripts(state);
        }
        if self.is_ours_to_put() {
            self.add_missing_rights(&mut problems);
        }
        if !problems.is_empty() {
            self.look_later();
        }
        if !well && self.holding == Holding::Gone {
            self.look_at = Some(now() + REMOVE_AGAIN);
        }
        self.say(&problems);
        well
    }

    /// Who does not have the address yet shall know before it is needed that it could not be had.
    fn add_missing_rights(&self, problems: &mut Vec<AddressError>) {
        let interface = || self.settings.interface.clone();
        let Ok(sets) = capabilities(None) else { return };
        let told = |problem: &AddressError| matches!(problem, AddressError::MayNotChange { .. });
        if !sets.effective.contains(CapabilitySet::NET_ADMIN) && !problems.iter().any(told) {
            problems.push(AddressError::MayNotChange { interface: interface() });
        }
        if !sets.effective.contains(CapabilitySet::NET_RAW) {
            problems.push(AddressError::MayNotAnnounce { interface: interface() });
        }
    }

    fn is_ours_to_put(&self) -> bool {
        self.settings.managed_by == ManagedBy::Pgbaton && !self.settings.addresses.is_empty()
    }

    fn tell_scripts(&mut self, state: State) {
        if self.told.replace(state) != Some(state)
            && let Some(scripts) = &self.scripts
        {
            scripts.tell(state);
        }
    }

    /// Shows how it is, and logs what is new in it.
    fn say(&mut self, problems: &[AddressError]) {
        let now = now();
        let held = match self.holding {
            Holding::Held { epoch, .. } => Some(epoch),
            _ => None,
        };
        let present = self.put.iter().filter(|(_, end)| !now.reached(**end)).map(|(address, _)| address.to_string());
        let texts: Vec<String> = problems.iter().map(|problem| chain(problem)).collect();
        let mut status = locked(&self.status);
        for text in texts.iter().filter(|text| !status.problems.contains(text)) {
            tracing::error!("virtual address: {text}");
        }
        *status = Status { held, present: present.collect(), problems: texts };
    }

    /// What is wrong, and whether the addresses are where they should be all the same.
    fn change(&mut self) -> (Vec<AddressError>, bool) {
        let seen = self.look();
        match (self.holding, seen) {
            (Holding::Unknown, _) => (Vec::new(), true),
            (Holding::Held { end, .. }, Ok((interface, found))) => self.put_all(&interface, &found, end),
            (Holding::Gone, Ok((interface, found))) => self.remove_all(&interface, &found),
            // Where nothing can be, nothing has to be taken away.
            (Holding::Gone, Err(error @ AddressError::NoInterface { .. })) => {
                self.nothing_left();
                (vec![error], true)
            }
            (_, Err(error)) => {
                // A socket that does not answer is opened anew.
                self.netlink = None;
                (vec![error], false)
            }
        }
    }

    fn look(&mut self) -> Result<(Interface, Vec<Found>), AddressError> {
        let open = |source| AddressError::System { what: "open a socket to the kernel".to_owned(), source };
        let netlink = match &mut self.netlink {
            Some(netlink) => netlink,
            None => self.netlink.insert(Netlink::open().map_err(open)?),
        };
        let interface = netlink.interface(&self.settings.interface)?;
        let found = netlink.addresses(&interface)?;
        Ok((interface, found))
    }

    /// One of the addresses is there, with a lifetime: a life of this agent before this one has put it there.
    fn is_there(&mut self) -> bool {
        if !self.is_ours_to_put() {
            return false;
        }
        let Ok((_, found)) = self.look() else { return false };
        let wanted = |found: &Found| self.settings.addresses.iter().any(|address| address.ip == found.address.ip);
        found.iter().any(|found| !found.permanent && wanted(found))
    }

    fn put_all(&mut self, interface: &Interface, found: &[Found], end: BootTime) -> (Vec<AddressError>, bool) {
        let mut problems = Vec::new();
        if !interface.up {
            problems.push(AddressError::Down { interface: self.settings.interface.clone() });
        }
        for address in self.settings.addresses.clone() {
            let there = found.iter().find(|found| found.address.ip == address.ip).copied();
            if there.is_some_and(|there| there.permanent) {
                problems.push(AddressError::NotOurs { address, interface: self.settings.interface.clone() });
            } else if let Err(source) = self.put_one(interface, address, there, end) {
                problems.push(self.refused(&format!("put {address} on '{}'", self.settings.interface), source));
            }
        }
        let well = problems.is_empty();
        if self.packets.is_none() && self.announces.is_some() {
            problems.extend(self.open_packets());
        }
        if self.announces.is_some_and(|schedule| now().reached(schedule.next())) {
            self.announce();
        }
        (problems, well)
    }

    fn put_one(
        &mut self,
        interface: &Interface,
        address: Prefixed,
        there: Option<Found>,
        end: BootTime,
    ) -> io::Result<()> {
        let Some(netlink) = &mut self.netlink else { return Ok(()) };
        let now = now();
        if let Some(other) = there.filter(|there| there.address.prefix != address.prefix) {
            netlink.remove(interface, other.address)?;
        }
        let before = self.put.get(&address).copied();
        let Some(lifetime) = lifetime(now, end, Bugs::default()) else {
            // A kernel that was itself away, with its host, does not know how late it is.
            if there.is_some() && now.reached(end) {
                netlink.remove(interface, address)?;
            }
            self.gone_by_itself(address, there);
            return Ok(());
        };
        // A whole number of seconds is never all that is left: the rest is given a moment later.
        let rest = end.since(now + lifetime + OVERSTAY_MAX).saturating_sub(EARLY);
        let wait = if rest >= WORTH_IT { rest } else { lifetime + WORTH_IT };
        self.look_at = Some(now + wait);
        if there.is_some() && before.is_some_and(|before| now + lifetime < before + WORTH_IT) {
            return Ok(());
        }
        netlink.put(interface, address, lifetime)?;
        // This thread may have stood still before the kernel was asked, which counts from then.
        let after = self::now();
        if !end.reached(after + lifetime + OVERSTAY_MAX) {
            match self::lifetime(after, end, Bugs::default()) {
                Some(shorter) => netlink.put(interface, address, shorter)?,
                None => netlink.remove(interface, address)?,
            }
        }
        self.put.insert(address, now + lifetime);
        match (there, before) {
            (Some(_), Some(_)) => return Ok(()),
            (Some(_), None) => {
                tracing::info!(%address, interface = self.settings.interface, "goes on with the virtual address");
            }
            (None, Some(before)) if !now.reached(before) => {
                tracing::warn!(%address, interface = self.settings.interface, "somebody has taken the virtual address away: put it back");
            }
            (None, _) => {
                tracing::info!(%address, interface = self.settings.interface, lifetime_s = lifetime.as_secs(), "has the virtual address");
            }
        }
        self.announces = Some(Schedule::new(now));
        Ok(())
    }

    /// The lease was not renewed: what is left of it is too little for another lifetime.
    fn gone_by_itself(&mut self, address: Prefixed, there: Option<Found>) {
        if there.is_none() && self.put.remove(&address).is_some() {
            tracing::warn!(%address, "the virtual address has ended with a lease that was not renewed in time");
        }
        if self.put.is_empty() {
            self.announces = None;
        } else {
            self.look_at = Some(now() + OVERSTAY_MAX);
        }
    }

    fn remove_all(&mut self, interface: &Interface, found: &[Found]) -> (Vec<AddressError>, bool) {
        let (mut problems, mut well) = (Vec::new(), true);
        for address in self.settings.addresses.clone() {
            for there in found.iter().filter(|found| found.address.ip == address.ip) {
                if there.permanent {
                    let interface = self.settings.interface.clone();
                    problems.push(AddressError::NotOurs { address: there.address, interface });
                    continue;
                }
                let Some(netlink) = &mut self.netlink else { continue };
                match netlink.remove(interface, there.address) {
                    Ok(()) => {
                        tracing::info!(%address, interface = self.settings.interface, "took the virtual address away");
                    }
                    Err(source) => {
                        well = false;
                        let what = format!("take {address} off '{}'", self.settings.interface);
                        problems.push(self.refused(&what, source));
                    }
                }
            }
        }
        self.nothing_left();
        (problems, well)
    }

    fn nothing_left(&mut self) {
        self.put.clear();
        self.announces = None;
        self.look_later();
    }

    /// Somebody may change the interface, or put an address there by hand.
    fn look_later(&mut self) {
        let later = now() + self.settings.announce_interval;
        self.look_at = Some(self.look_at.map_or(later, |at| at.min(later)));
    }

    fn refused(&self, what: &str, source: io::Error) -> AddressError {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return AddressError::MayNotChange { interface: self.settings.interface.clone() };
        }
        AddressError::System { what: what.to_owned(), source }
    }

    fn open_packets(&mut self) -> Option<AddressError> {
        match PacketSocket::open() {
            Ok(socket) => {
                self.packets = Some(socket);
                None
            }
            // Said with the rights that are missing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(source) => Some(AddressError::System { what: "open a socket for packets".to_owned(), source }),
        }
    }

    /// Tells the neighbours once, and plans the next time.
    fn announce(&mut self) {
        let Some(mut schedule) = self.announces else { return };
        schedule.announced(now(), self.settings.announce_interval);
        self.announces = Some(schedule);
        let Ok((interface, found)) = self.look() else { return };
        let Some(packets) = &self.packets else { return };
        for (address, end) in &self.put {
            // Whoever was frozen for a while may have lost it to another host, which must not be talked out of it.
            let there = found.iter().any(|found| found.address == *address) && !now().reached(*end + OVERSTAY_MAX);
            if !there {
                continue;
            }
            if let Err(error) = announcement::send(packets, &interface, address.ip) {
                tracing::warn!(%address, error = %chain(&error), "the virtual address was not announced");
            }
        }
    }
}

fn now() -> BootTime {
    BootTime(boottime())
}
