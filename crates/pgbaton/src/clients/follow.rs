//! Following a cluster in its store: by watch, with a read in between that proves how old the view is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::{Baton, StoredKey, View};
use pgbaton_config::FollowerFile;
use pgbaton_store::{EventKind, KeyValue, Snapshot, Store, StoreError, Watch, WatchItem};
use pgbaton_store_etcd::EtcdStore;
use pgbaton_types::{BootTime, Revision, chain};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cli::Failure;

/// Reads in the time for which a view holds: so many may fail before it does not.
const READS_PER_LEASE: u32 = 5;
/// Pause after a read that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Whom to follow.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// The store.
    pub(crate) store: Arc<dyn Store>,
    /// What its keys begin with.
    pub(crate) prefix: String,
    /// Its name.
    pub(crate) scope: String,
    /// For how long a view holds.
    pub(crate) lease: Duration,
}

impl Cluster {
    /// The cluster that a file names; `lease`: for how long a view is to hold.
    pub(crate) fn of(file: &FollowerFile, lease: Duration) -> Result<Self, Failure> {
        let options = pgbaton_agent::follower_options(&file.store);
        let store = EtcdStore::new(&options).map_err(|error| Failure::because("the store cannot be asked", error))?;
        let prefix = pgbaton_api::layout::Keys::new(&file.namespace, &file.scope).prefix().to_owned();
        Ok(Self { store: Arc::new(store), prefix, scope: file.scope.clone(), lease })
    }

    /// Where the baton is now.
    pub(crate) async fn now(&self) -> Result<Baton, StoreError> {
        Ok(self.view().await?.baton)
    }

    /// The same, with how old it is.
    pub(crate) async fn view(&self) -> Result<View, StoreError> {
        let sent = BootTime(pgbaton_sys::clock::boottime());
        let snapshot = self.store.snapshot(&self.prefix, self.lease).await?;
        let mut keys = Keys::default();
        keys.replace(snapshot, sent, &self.prefix);
        Ok(keys.view(&self.scope))
    }
}

/// The keys as last seen.
#[derive(Default)]
struct Keys {
    items: BTreeMap<String, KeyValue>,
    revision: Revision,
    as_of: BootTime,
}

/// Follows until nobody wants views any more. `leases`: for how long a view is to hold.
pub(crate) async fn follow(cluster: Cluster, views: watch::Sender<View>, mut leases: watch::Receiver<Duration>) {
    let mut silent = false;
    while !views.is_closed() {
        let lease = *leases.borrow_and_update();
        let followed = tokio::select! {
            followed = follow_once(&cluster, lease, &views, &mut silent) => followed,
            // It is read at another pace from now on.
            Ok(()) = leases.changed() => Ok(()),
        };
        match followed {
            Ok(()) => {}
            Err(error) => {
                if !silent {
                    tracing::warn!(error = %chain(&error), "the store does not answer; the view holds for {} s", lease.as_secs());
                    silent = true;
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Reads, watches, and reads again and again, until the watch or a read fails.
async fn follow_once(
    cluster: &Cluster,
    lease: Duration,
    views: &watch::Sender<View>,
    silent: &mut bool,
) -> Result<(), StoreError> {
    let within = lease / READS_PER_LEASE;
    let mut keys = Keys::default();
    let mut first = true;
    let mut watched: Option<Watch> = None;
    loop {
        let sent = BootTime(pgbaton_sys::clock::boottime());
        let snapshot = cluster.store.snapshot(&cluster.prefix, within).await?;
        if *silent || first {
            tracing::info!(revision = %snapshot.revision, "the store answers");
            (*silent, first) = (false, false);
        }
        // Asked for after all that the watch had told: a lower revision is a store that has gone back, whose watch tells nothing any more.
        if snapshot.revision < keys.revision {
            tracing::warn!(known = %keys.revision, found = %snapshot.revision, "the store has gone back");
            watched = None;
        }
        keys.replace(snapshot, sent, &cluster.prefix);
        views.send_replace(keys.view(&cluster.scope));
        let mut watch = match watched.take() {
            Some(watch) => watch,
            None => cluster.store.watch(&cluster.prefix, Revision(keys.revision.0 + 1), within).await?,
        };
        let next_read = Instant::now() + within;
        loop {
            tokio::select! {
                () = views.closed() => return Ok(()),
                () = sleep_until(next_read) => break,
                item = watch.next() => match item {
                    WatchItem::Batch { revision, events } => {
                        keys.apply(revision, events, &cluster.prefix);
                        views.send_replace(keys.view(&cluster.scope));
                    }
                    WatchItem::Compacted { .. } | WatchItem::Lost => return Ok(()),
                }
            }
        }
        watched = Some(watch);
    }
}

impl Keys {
    fn replace(&mut self, snapshot: Snapshot, sent: BootTime, prefix: &str) {
        let named = |item: KeyValue| Some((item.key.strip_prefix(prefix)?.to_owned(), item));
        *self = Self {
            items: snapshot.items.into_iter().filter_map(named).collect(),
            revision: snapshot.revision,
            as_of: sent,
        };
    }

    fn apply(&mut self, revision: Revision, events: Vec<pgbaton_store::Event>, prefix: &str) {
        for event in events.into_iter().filter(|event| event.revision > self.revision) {
            let Some(name) = event.key().strip_prefix(prefix).map(str::to_owned) else { continue };
            match event.kind {
                EventKind::Put(pair) => self.items.insert(name, pair),
                EventKind::Delete { .. } => self.items.remove(&name),
            };
        }
        self.revision = self.revision.max(revision);
    }

    fn view(&self, scope: &str) -> View {
        let keys = self.items.iter().map(|(name, pair)| StoredKey {
            name,
            value: &pair.value,
            created: pair.create_revision.0,
            modified: pair.mod_revision.0,
        });
        View { baton: Baton::of(scope, keys), as_of: Some(self.as_of), revision: self.revision }
    }
}
