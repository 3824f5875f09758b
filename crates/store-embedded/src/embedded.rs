use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use pgbaton_net::{PeerKey, PeerServer, SecurityError, require_password};
use pgbaton_store::Voter;
use pgbaton_sys::lock::{FileLock, LockError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::disk::{Disk, RealDisk};
use crate::etcd::{EtcdServer, ServerTls};
use crate::forming::{self, Forming, PeerFact};
use crate::identity::{Identity, IdentityError};
use crate::journal::JournalError;
use crate::log::{Log, LogThread};
use crate::network::Network;
use crate::node::{Handler, HostFacts, Node, lock};
use crate::read_barrier::ReadBarrier;
use crate::state_machine::StateMachine;
use crate::{duties, timing};

/// Bytes of one segment of the log: room for the largest transaction, and some thousand changes between two snapshots.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Where to listen for other members.
#[derive(Debug)]
pub enum Listen {
    /// Bind this host and port.
    At(String),
    /// A listener that is bound already.
    On(std::net::TcpListener),
}

/// How to open the embedded store.
pub struct Options {
    /// The directory of its files; made if it does not exist.
    pub data_dir: PathBuf,
    /// Where to listen; `None` for a store of one voter.
    pub listen: Option<Listen>,
    /// Where the other members reach this one, as host and port; the same text that they have in their lists.
    pub self_address: String,
    /// The other members.
    pub partner_addresses: Vec<String>,
    /// The password that all members share. Without one everything must be on loopback addresses.
    pub password: Option<String>,
    /// How clients of etcd's protocol are served; none: in plain text.
    pub tls: Option<ServerTls>,
    /// What to tell the others about the database of this host.
    pub host_facts: HostFacts,
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .field("self_address", &self.self_address)
            .field("partner_addresses", &self.partner_addresses)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// A store of one voter, without any port.
    pub fn alone(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: None,
            self_address: String::new(),
            partner_addresses: Vec::new(),
            password: None,
            tls: None,
            host_facts: Arc::new(|| None),
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or written.
    #[error("the store's directory {} cannot be used", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open, or the lock cannot be had.
    #[error("the store's directory {} cannot be locked", .path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// Who has it, or why not.
        #[source]
        source: LockError,
    },
    /// The certificates for clients are none, or do not fit together.
    #[error("the certificates with which clients at {address} are to be served cannot be used")]
    Tls {
        /// Where they come in.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The identity file is not readable.
    #[error("the store in {} cannot be opened", .path.display())]
    Identity {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: IdentityError,
    },
    /// The log is not readable.
    #[error("the store in {} cannot be opened", .path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// Some files are there and others are not.
    #[error(
        "the store in {} is not whole: {missing}. Remove the directory: this member then joins the others again as a new voter",
        .path.display()
    )]
    NotWhole {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// The port cannot be bound.
    #[error("cannot listen on {address} for the other members of the store")]
    Listen {
        /// Host and port.
        address: String,
        /// Why, such as the port being in use.
        #[source]
        source: io::Error,
    },
    /// There are other members, but no address to listen on.
    #[error("other members are listed, but no address to listen on for them")]
    NoListener,
    /// A password is needed.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// openraft did not start.
    #[error("Raft cannot start on the store in {}: {problem}", .path.display())]
    Raft {
        /// The directory.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
}

/// How the store is, for the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// Its cluster, once it has one.
    pub cluster_id: Option<u64>,
    /// Whether this node has its vote.
    pub formed: bool,
    /// The leader that this node knows.
    pub leader: Option<u64>,
    /// Whether it is this node.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
    /// Those who vote.
    pub voters: Vec<Voter>,
    /// Those who do not vote yet.
    pub learners: Vec<Voter>,
    /// The index of the last entry of the log.
    pub last_log_index: Option<u64>,
    /// The index of the last entry applied.
    pub applied_index: Option<u64>,
    /// What ended this voter, if something did.
    pub fatal: Option<String>,
}

/// The embedded store: this member's voter, and the client of whoever leads.
pub struct EmbeddedStore {
    pub(crate) node: Arc<Node>,
    log: Log,
    server: Mutex<Option<(PeerServer, EtcdServer)>>,
    tasks: Mutex<JoinSet<()>>,
    thread: Mutex<Option<LogThread>>,
    /// Held as long as this store is open.
    lock: Mutex<Option<FileLock>>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EmbeddedStore").field("directory", &self.node.directory).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store, starts its voter on the caller's runtime, and begins to form or join the cluster. Returns at once:
    /// calls wait, within their deadlines, until there is a leader.
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let path = options.data_dir.clone();
        std::fs::create_dir_all(&path).map_err(|source| OpenError::Directory { path: path.clone(), source })?;
        let disk = Arc::new(RealDisk::new(&path));
        Self::open_on(options, disk, SEGMENT_BYTES).await
    }

    pub(crate) async fn open_on(
        options: Options,
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
    ) -> Result<Arc<Self>, OpenError> {
        let path = options.data_dir.clone();
        let lock =
            FileLock::acquire(&path.join("lock")).map_err(|source| OpenError::Lock { path: path.clone(), source })?;
        let listener = listen(&options).await?;
        let (identity, log, thread, snapshot) = open_files(&path, &disk, segment_bytes)?;
        let raft_error = |problem: String| OpenError::Raft { path: path.clone(), problem };
        let flush = log.flush_watch();
        let machine = StateMachine::new(log.clone(), snapshot).map_err(|error| raft_error(error.to_string()))?;
        let key = PeerKey::derive(options.password.as_deref());
        let cluster = Arc::new(AtomicU64::new(identity.cluster_id.unwrap_or(0)));
        let network = Network { key: key.clone(), cluster: Arc::clone(&cluster) };
        let config = timing::raft_config().validate().map_err(|error| raft_error(error.to_string()))?;
        let raft = Raft::new(identity.node_id, Arc::new(config), network, log.clone(), machine.clone())
            .await
            .map_err(|error| raft_error(error.to_string()))?;
        let node = Arc::new(Node {
            barrier: ReadBarrier::new(raft.clone()),
            raft,
            machine,
            directory: path.clone(),
            address: options.self_address,
            partners: options.partner_addresses,
            key: key.clone(),
            host_facts: options.host_facts,
            flush,
            identity: Mutex::new(identity),
            cluster,
            forming: Forming::new(),
            prefers_not_to_lead: AtomicBool::new(false),
            fatal: Mutex::new(None),
            heard: AtomicU64::new(0),
            joining: tokio::sync::Mutex::new(()),
            clients: Mutex::new(BTreeMap::new()),
        });
        let server = match listener {
            None => None,
            Some((address, listener)) => {
                let (etcd, clients) = EtcdServer::start(&node, options.tls.as_ref())
                    .map_err(|source| OpenError::Tls { address: address.clone(), source })?;
                let started = PeerServer::start(listener, key, Arc::new(Handler(Arc::clone(&node))), clients);
                Some((started.map_err(|source| OpenError::Listen { address, source })?, etcd))
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(forming::keep(Arc::clone(&node)));
        tasks.spawn(duties::keep(Arc::clone(&node)));
        Ok(Arc::new(Self {
            node,
            log,
            server: Mutex::new(server),
            tasks: Mutex::new(tasks),
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Stops the voter, closes the port and the files. Calls fail from now on.
    pub async fn shutdown(&self) {
        let server = lock(&self.server).take();
        if let Some((server, etcd)) = server {
            drop(etcd);
            server.stop().await;
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        if let Err(error) = self.node.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop in order");
        }
        self.log.stop();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The thread may be waiting for the disk; that must not block the runtime.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the log's thread did not end in order");
            }
        }
        drop(lock(&self.lock).take());
    }

    /// What each listed member answered when it was last asked.
    pub fn peer_facts(&self) -> Vec<PeerFact> {
        self.node.forming.facts()
    }

    /// Asks every listed member again, each within `within`.
    pub async fn refresh_peer_facts(&self, within: Duration) -> Vec<PeerFact> {
        forming::ask_all(&self.node, within).await;
        self.peer_facts()
    }

    /// Becomes true when this node has its vote.
    pub fn formed(&self) -> watch::Receiver<bool> {
        self.node.forming.formed()
    }

    /// Says whether this host holds the baton: the leadership of the store is then given to another voter, if one has caught
    /// up, at most once a minute.
    pub fn prefer_not_leading(&self, prefer: bool) {
        self.node.prefers_not_to_lead.store(prefer, Ordering::Release);
    }

    /// Those who vote, as far as this node knows.
    pub fn members(&self) -> Vec<Voter> {
        self.status().voters
    }

    /// How the store is, without asking anybody.
    pub fn status(&self) -> Status {
        let identity = *lock(&self.node.identity);
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let named =
            |id: u64| Voter { id, address: membership.get_node(&id).map(|node| node.addr.clone()).unwrap_or_default() };
        Status {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            formed: *self.node.forming.formed().borrow(),
            leader: metrics.current_leader,
            is_leader: metrics.current_leader == Some(identity.node_id),
            term: metrics.current_term,
            voters: membership.voter_ids().map(named).collect(),
            learners: membership.learner_ids().map(named).collect(),
            last_log_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|log_id| log_id.index),
            fatal: lock(&self.node.fatal).clone(),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.log.stop();
    }
}

async fn listen(options: &Options) -> Result<Option<(String, TcpListener)>, OpenError> {
    let Some(listen) = &options.listen else {
        return if options.partner_addresses.is_empty() { Ok(None) } else { Err(OpenError::NoListener) };
    };
    let (address, listener) = match listen {
        Listen::At(address) => (address.clone(), TcpListener::bind(address).await),
        Listen::On(listener) => {
            let address = listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
            (
                address,
                listener.try_clone().and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                }),
            )
        }
    };
    let failed = |source| OpenError::Listen { address: address.clone(), source };
    let listener = listener.map_err(failed)?;
    let mut addresses = vec![listener.local_addr().map_err(failed)?];
    for partner in &options.partner_addresses {
        // A name that cannot be resolved now is checked again at each connection.
        let resolved: Vec<SocketAddr> =
            tokio::net::lookup_host(partner).await.map(Iterator::collect).unwrap_or_default();
        addresses.extend(resolved);
    }
    require_password(options.password.as_deref(), &addresses)?;
    Ok(Some((address, listener)))
}

type Files = (Identity, Log, LogThread, Option<Vec<u8>>);

fn open_files(path: &Path, disk: &Arc<dyn Disk>, segment_bytes: u64) -> Result<Files, OpenError> {
    let identity_error = |source| OpenError::Identity { path: path.to_owned(), source };
    let names = disk.names().map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
    let has_log = names.iter().any(|name| name.starts_with("log-"));
    let known = Identity::read(path).map_err(identity_error)?;
    match known {
        Some(identity) if identity.has_log && !has_log => {
            return Err(OpenError::NotWhole { path: path.to_owned(), missing: "the log is missing" });
        }
        None if has_log => {
            return Err(OpenError::NotWhole { path: path.to_owned(), missing: "the file `identity` is missing" });
        }
        _ => {}
    }
    let mut identity =
        known.unwrap_or_else(|| Identity { node_id: rand::random::<u64>().max(1), cluster_id: None, has_log: false });
    if known.is_none() {
        identity.write(path).map_err(identity_error)?;
    }
    let (log, thread, snapshot) =
        Log::open(disk, segment_bytes).map_err(|source| OpenError::Log { path: path.to_owned(), source })?;
    if !identity.has_log {
        identity.has_log = true;
        identity.write(path).map_err(identity_error)?;
    }
    Ok((identity, log, thread, snapshot))
}
