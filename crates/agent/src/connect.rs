//! Opening the store, and what only our own store can tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_config::LocalConfig;
use pgbaton_core::observation::{HostFacts, Listed};
use pgbaton_store::Store;
use pgbaton_store_embedded::{EmbeddedStore, Listen, OpenError, Options, PeerFact};
use pgbaton_types::BootTime;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock;

/// First byte of what a host says about itself, its version; then JSON.
const VERSION: u8 = b'1';

/// What this host says about itself to the others before there is a store that could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct HostRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_id: Option<pgbaton_types::SystemId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<pgbaton_types::TimelineId>,
    promised: pgbaton_types::Epoch,
    primary_may_run: bool,
    lease_left_ms: u64,
}

/// The facts of this host, as the loop saw them last. Before its first look there are none, and others wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnFacts(Arc<Mutex<Option<Vec<u8>>>>);

impl OwnFacts {
    /// Sets them.
    pub(crate) fn set(&self, facts: &HostFacts) {
        let record = HostRecord {
            system_id: facts.system_id,
            timeline: facts.timeline,
            promised: facts.promised,
            primary_may_run: facts.primary_may_run,
            lease_left_ms: u64::try_from(facts.lease_left.as_millis()).unwrap_or(u64::MAX),
        };
        let mut bytes = vec![VERSION];
        bytes.extend(serde_json::to_vec(&record).unwrap_or_default());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    fn get(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(bytes: &[u8]) -> Option<HostFacts> {
    let (version, rest) = bytes.split_first()?;
    let record: HostRecord = (*version == VERSION).then(|| serde_json::from_slice(rest).ok()).flatten()?;
    Some(HostFacts {
        system_id: record.system_id,
        timeline: record.timeline,
        promised: record.promised,
        primary_may_run: record.primary_may_run,
        lease_left: Duration::from_millis(record.lease_left_ms),
    })
}

/// The store with what is special to it.
#[derive(Clone)]
pub(crate) struct Connected {
    embedded: Arc<EmbeddedStore>,
    /// When the other hosts were last asked about themselves.
    asked: Arc<Mutex<Option<BootTime>>>,
    /// They are to be asked at once.
    wanted: Arc<Notify>,
}

impl Connected {
    /// Opens the store that the configuration names.
    pub(crate) async fn open(local: &LocalConfig, own: &OwnFacts) -> Result<Self, OpenError> {
        let own = own.clone();
        let mut options = Options::alone(&local.store.data_dir);
        if let Some(network) = &local.store.network {
            options.listen = Some(Listen::At(network.bind_addr.to_string()));
            options.self_address = network.self_addr.to_string();
            options.partner_addresses = network.partner_addrs.iter().map(ToString::to_string).collect();
            options.password = network.password.as_ref().map(|password| password.reveal().to_owned());
        }
        options.host_facts = Arc::new(move || own.get());
        Ok(Self { embedded: EmbeddedStore::open(options).await?, asked: Arc::default(), wanted: Arc::default() })
    }

    /// The store itself.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::<EmbeddedStore>::clone(&self.embedded)
    }

    /// What the other listed voters said about their hosts.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.embedded.peer_facts().into_iter().map(|fact| listed(fact, asked)).collect()
    }

    /// Has them asked at once, or anew when that is under way.
    pub(crate) fn want_listed(&self) {
        self.wanted.notify_one();
    }

    /// Waits until they are to be asked, for `most` at most.
    pub(crate) async fn listed_wanted(&self, most: Duration) {
        // Either way it is time to ask.
        drop(timeout(most, self.wanted.notified()).await);
    }

    /// Asks them anew.
    pub(crate) async fn ask_listed(&self, within: Duration) {
        let asked = clock::now();
        self.embedded.refresh_peer_facts(within).await;
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }

    /// Moves the store's own leadership away from the host that holds the lease.
    pub(crate) fn holds_lease(&self, holds: bool) {
        self.embedded.prefer_not_leading(holds);
    }

    /// Closes the store.
    pub(crate) async fn close(&self) {
        self.embedded.shutdown().await;
    }
}

fn listed(fact: PeerFact, asked: Option<BootTime>) -> Listed {
    let host = fact.answer.ok().and_then(|introduction| read(&introduction.host_facts?));
    Listed { address: fact.address, asked, host }
}

#[cfg(test)]
mod tests {
    use pgbaton_types::SystemId;

    use super::*;

    #[test]
    fn what_version_one_says_is_read() {
        let committed = br#"1{"system_id":7,"timeline":2,"promised":3,"primary_may_run":true,"lease_left_ms":1500}"#;
        let facts = HostFacts {
            system_id: Some(SystemId(7)),
            timeline: Some(pgbaton_types::TimelineId(2)),
            promised: pgbaton_types::Epoch(3),
            primary_may_run: true,
            lease_left: Duration::from_millis(1500),
        };
        assert_eq!(read(committed), Some(facts.clone()));
        let own = OwnFacts::default();
        assert_eq!(own.get(), None);
        own.set(&facts);
        assert_eq!(own.get().unwrap(), committed);
        assert_eq!(read(b"2{}"), None);
    }
}
