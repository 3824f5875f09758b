use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::Store;

use super::memory_disk::MemoryDisk;
use super::process::Process;
use crate::disk::{Disk, RealDisk};
use crate::{EmbeddedStore, Listen, Options};

/// Far above what anything here takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Small, so that tests reach the next segment.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024;

/// Members of a cluster on loopback, in one process. Their ports stay bound over restarts, so nobody else can take them.
pub(super) struct Cluster {
    directory: tempfile::TempDir,
    listeners: Vec<std::net::TcpListener>,
    disks: BTreeMap<usize, MemoryDisk>,
    pub(super) stores: BTreeMap<usize, Arc<EmbeddedStore>>,
}

impl Cluster {
    /// Members that are not started.
    pub(super) fn new(size: usize) -> Self {
        let listeners = (0..size).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let directory = tempfile::tempdir().unwrap();
        Self { directory, listeners, disks: BTreeMap::new(), stores: BTreeMap::new() }
    }

    /// All members, started and formed.
    pub(super) async fn started(size: usize) -> Self {
        let mut cluster = Self::new(size);
        for member in 0..size {
            cluster.start(member).await;
        }
        cluster.formed().await;
        cluster
    }

    /// From now on this member's log is on a disk in memory.
    pub(super) fn on_memory(&mut self, member: usize) -> MemoryDisk {
        self.disks.entry(member).or_default().clone()
    }

    pub(super) fn directory_of(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("member-{member}"))
    }

    /// A member in a process of its own.
    pub(super) fn spawn(&self, member: usize, test: &str) -> Process {
        let partners: Vec<String> =
            (0..self.listeners.len()).filter(|other| *other != member).map(|other| self.address(other)).collect();
        let listener = self.listeners[member].try_clone().unwrap();
        Process::spawn(test, Some(listener), &self.directory_of(member), &self.address(member), &partners)
    }

    pub(super) fn address(&self, member: usize) -> String {
        self.listeners[member].local_addr().unwrap().to_string()
    }

    pub(super) async fn start(&mut self, member: usize) -> Arc<EmbeddedStore> {
        let store = self.try_start(member).await.unwrap();
        self.stores.insert(member, Arc::clone(&store));
        store
    }

    pub(super) async fn try_start(&self, member: usize) -> Result<Arc<EmbeddedStore>, crate::OpenError> {
        let data_dir = self.directory_of(member);
        std::fs::create_dir_all(&data_dir).unwrap();
        let partners = (0..self.listeners.len()).filter(|other| *other != member);
        let options = Options {
            listen: Some(Listen::On(self.listeners[member].try_clone().unwrap())),
            self_address: self.address(member),
            partner_addresses: partners.map(|other| self.address(other)).collect(),
            password: Some("secret".to_owned()),
            host_facts: Arc::new(move || Some(vec![u8::try_from(member).unwrap()])),
            ..Options::alone(&data_dir)
        };
        let disk: Arc<dyn Disk> = match self.disks.get(&member) {
            Some(disk) => Arc::new(disk.clone()),
            None => Arc::new(RealDisk::new(&data_dir)),
        };
        EmbeddedStore::open_on(options, disk, SEGMENT_BYTES).await
    }

    pub(super) async fn stop(&mut self, member: usize) {
        let store = self.stores.remove(&member).unwrap();
        store.shutdown().await;
    }

    /// Waits until every running member has its vote.
    pub(super) async fn formed(&self) {
        for (member, store) in &self.stores {
            let mut formed = store.formed();
            let waiting = formed.wait_for(|formed| *formed);
            let waited = tokio::time::timeout(DEADLINE, waiting).await.is_ok();
            assert!(waited, "member {member} has no vote: {:?} {:?}", store.status(), store.peer_facts());
        }
    }

    /// Waits until the running members agree on a leader among them, other than `not`.
    pub(super) async fn leader_but(&self, not: Option<usize>) -> usize {
        let found = until("a leader", || {
            let leaders: Vec<Option<u64>> = self.stores.values().map(|store| store.status().leader).collect();
            let leader = leaders[0]?;
            let member = self.stores.iter().find(|(_, store)| store.status().node_id == leader)?.0;
            (leaders.iter().all(|other| *other == Some(leader)) && Some(*member) != not).then_some(*member)
        });
        found.await
    }

    pub(super) async fn leader(&self) -> usize {
        self.leader_but(None).await
    }

    pub(super) async fn shutdown(mut self) {
        for (_, store) in std::mem::take(&mut self.stores) {
            store.shutdown().await;
        }
    }
}

/// Looks again and again until there is something; fails with what was awaited.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        // waits: a short pause between two looks; the state itself gives no event
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A value of the store, read by this member.
pub(super) async fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    let snapshot = store.snapshot(key, DEADLINE).await.unwrap();
    snapshot.get(key).map(|item| item.value.clone())
}
