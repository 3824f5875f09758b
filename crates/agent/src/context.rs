//! What the parts of the agent share. Handles only: what is decided and remembered is the loop's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use pgbaton_config::{DynamicConfig, Effective, LocalConfig};
use pgbaton_core::{Memory, Settings};
use pgbaton_guard::client::{Client as Guard, ClientError};
use pgbaton_postgres::{HostPort, Recovery, ServerSignal, ServerSpec, SignalError, Upstream};
use pgbaton_store::{Session, Store};
use pgbaton_types::{BootTime, Epoch, MemberName, TimelineId};
use tokio::sync::{mpsc, watch};

use crate::address::VirtualAddress;
use crate::event::Event;
use crate::keeper::LeaseCell;
use crate::keys;
use crate::spec;
use crate::state::{Kept, StateError, StateFile};
use crate::view::View;

/// SIGHUP and SIGUSR1 by their numbers on Linux, for the guard.
const SIGHUP: u8 = 1;
const SIGUSR1: u8 = 10;

/// Shared handles.
pub(crate) struct Context {
    pub(crate) me: MemberName,
    /// The beginning of all keys.
    pub(crate) prefix: String,
    pub(crate) store: Arc<dyn Store>,
    /// The store does not say which hosts there are.
    pub(crate) lists_no_hosts: bool,
    pub(crate) guard: Arc<Guard>,
    pub(crate) view: View,
    pub(crate) lease: LeaseCell,
    pub(crate) session: Session,
    pub(crate) address: VirtualAddress,
    pub(crate) events: mpsc::Sender<Event>,
    /// The runtime of everything but the loop.
    pub(crate) services: tokio::runtime::Handle,
    /// Whether there is something for clients in the own file; sent anew whenever that was read.
    pub(crate) clients: watch::Sender<bool>,
    state: Mutex<StateFile>,
    config: RwLock<Arc<Config>>,
    recovery: Mutex<Following>,
    progress: Mutex<Option<(u64, u64)>>,
    timeline: AtomicU32,
    /// One at a time runs the server's `archive_command`.
    pub(crate) archiving: tokio::sync::Mutex<()>,
}

/// Both configurations, and what follows from them.
pub(crate) struct Config {
    pub(crate) local: Arc<LocalConfig>,
    pub(crate) dynamic: DynamicConfig,
    pub(crate) effective: Arc<Effective>,
    pub(crate) spec: Arc<ServerSpec>,
    pub(crate) settings: Settings,
}

impl Config {
    pub(crate) fn new(local: Arc<LocalConfig>, dynamic: DynamicConfig, kill_time: Duration) -> Self {
        let effective = Arc::new(Effective::of(&local, &dynamic));
        let spec = Arc::new(spec::server(&local, &effective));
        let settings = spec::settings(&local, &effective, kill_time);
        Self { local, dynamic, effective, spec, settings }
    }
}

/// Whom the server follows, and what is set besides for a handover.
#[derive(Debug, Clone, Default)]
pub(crate) struct Following {
    /// The member; its address is looked up when files are written.
    pub(crate) upstream: Option<MemberName>,
    /// Where that member was when it was last looked up.
    pub(crate) address: Option<HostPort>,
    /// The handover that this member makes itself ready for.
    pub(crate) prepared: Option<Prepared>,
}

/// A handover that this member makes itself ready for.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// The reign that will end.
    pub(crate) epoch: Epoch,
    /// The settings that make it ready.
    pub(crate) overrides: BTreeMap<String, String>,
    /// When it was asked for last.
    pub(crate) asked: BootTime,
}

/// The parts that a context is made of.
pub(crate) struct Parts {
    pub(crate) me: MemberName,
    pub(crate) prefix: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) lists_no_hosts: bool,
    pub(crate) guard: Arc<Guard>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) services: tokio::runtime::Handle,
    pub(crate) state: StateFile,
    pub(crate) config: Config,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { me, prefix, store, lists_no_hosts, guard, events, services, state, config } = parts;
        let following = Following { upstream: state.get().upstream.clone(), ..Following::default() };
        Self {
            session: Session::new(format!("{prefix}{}{me}", keys::MEMBERS)),
            view: View::default(),
            lease: LeaseCell::default(),
            address: VirtualAddress::start(&config.local),
            me,
            prefix,
            store,
            lists_no_hosts,
            guard,
            events,
            services,
            clients: watch::Sender::new(config.local.clients),
            state: Mutex::new(state),
            config: RwLock::new(Arc::new(config)),
            recovery: Mutex::new(following),
            progress: Mutex::new(None),
            timeline: AtomicU32::new(0),
            archiving: tokio::sync::Mutex::default(),
        }
    }

    /// By what this member knows its own claim.
    pub(crate) fn own(&self) -> keys::Own<'_> {
        keys::Own { session: self.session.lease(), me: Some(&self.me) }
    }

    /// The full name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The configuration now.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the configuration.
    pub(crate) fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The server as configured now.
    pub(crate) fn spec(&self) -> Arc<ServerSpec> {
        Arc::clone(&self.config().spec)
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.config().spec.data_dir.clone()
    }

    /// What outlives the agent.
    pub(crate) fn kept(&self) -> Kept {
        locked(&self.state).get().clone()
    }

    /// Changes what outlives the agent, durably.
    pub(crate) fn keep(&self, change: impl FnOnce(&mut Kept)) -> Result<(), StateError> {
        locked(&self.state).update(change)
    }

    /// Keeps what of the core's memory outlives the agent. Nothing of it ever goes back.
    pub(crate) fn keep_memory(&self, memory: &Memory) -> Result<(), StateError> {
        let kept = self.kept();
        if memory.promised <= kept.promised && memory.timeline_given <= kept.timeline_given {
            return Ok(());
        }
        self.keep(|kept| {
            kept.promised = kept.promised.max(memory.promised);
            kept.timeline_given = kept.timeline_given.max(memory.timeline_given);
        })
    }

    /// Whom the server follows.
    pub(crate) fn following(&self) -> Following {
        locked(&self.recovery).clone()
    }

    /// Sets whom the server follows, durably; the files are written by the caller.
    pub(crate) fn follow(&self, upstream: Option<&MemberName>) -> Result<Recovery, StateError> {
        let address = upstream.and_then(|member| self.server_address(member));
        {
            let mut following = locked(&self.recovery);
            following.upstream = upstream.cloned();
            following.address = address;
        }
        self.keep(|kept| kept.upstream = upstream.cloned())?;
        Ok(self.recovery())
    }

    /// Looks the upstream's address up again; says whether it is another one than before.
    pub(crate) fn refresh_upstream(&self) -> bool {
        let following = self.following();
        let Some(address) = following.upstream.as_ref().and_then(|member| self.server_address(member)) else {
            return false;
        };
        let moved = following.address.as_ref().is_some_and(|known| *known != address);
        locked(&self.recovery).address = Some(address);
        moved
    }

    /// Sets or takes back what makes the server ready for a handover; the files are written by the caller.
    pub(crate) fn set_prepared(&self, prepared: Option<Prepared>) {
        locked(&self.recovery).prepared = prepared;
    }

    /// The part of the server's files that follows from whom it follows.
    pub(crate) fn recovery(&self) -> Recovery {
        let following = self.following();
        let address =
            following.address.or_else(|| following.upstream.as_ref().and_then(|name| self.server_address(name)));
        let slot = self.config().effective.use_slots.then(|| self.me.slot_name());
        Recovery {
            upstream: address.map(|address| Upstream { address, slot }),
            overrides: following.prepared.map(|prepared| prepared.overrides).unwrap_or_default(),
        }
    }

    /// Where a member's server is, by its record.
    pub(crate) fn server_address(&self, member: &MemberName) -> Option<HostPort> {
        let (host, port) = keys::record(&self.view.keys(), member)?.host_port()?;
        Some(HostPort::new(host, port))
    }

    /// The timeline that the server was on at the last look; none before the first.
    pub(crate) fn timeline(&self) -> Option<TimelineId> {
        Some(self.timeline.load(Ordering::SeqCst)).filter(|number| *number > 0).map(TimelineId)
    }

    /// Notes the timeline that the server is on.
    pub(crate) fn set_timeline(&self, timeline: TimelineId) {
        self.timeline.store(timeline.0, Ordering::SeqCst);
    }

    /// How far a base backup is.
    pub(crate) fn progress(&self) -> Option<(u64, u64)> {
        *locked(&self.progress)
    }

    /// Notes how far a base backup is.
    pub(crate) fn set_progress(&self, progress: Option<(u64, u64)>) {
        *locked(&self.progress) = progress;
    }

    /// Sends a signal to the postmaster by the guard.
    pub(crate) fn signal(&self, signal: ServerSignal) -> Result<(), ClientError> {
        self.guard.signal(match signal {
            ServerSignal::Reload => SIGHUP,
            ServerSignal::User1 => SIGUSR1,
        })
    }

    /// [`Self::signal`] in the form that the server's crate wants.
    pub(crate) fn signaller(&self) -> impl Fn(ServerSignal) -> std::future::Ready<Result<(), SignalError>> + '_ {
        |signal| std::future::ready(self.signal(signal).map_err(|error| Box::new(error) as SignalError))
    }

    /// Wakes the loop. A full queue wakes it as well.
    pub(crate) fn wake(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Closed(event)) = self.events.try_send(event) {
            tracing::debug!(?event, "the loop has ended");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
