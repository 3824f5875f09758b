//! What a host says about itself to others before there is a store that could, or when the store has forgotten the cluster: it decides whether
//! one is made, and who may lead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_core::Observation;
use pgbaton_core::observation::{Answer, Directory, HostFacts, Initialize, Server};
use pgbaton_types::{BootTime, Epoch};
use serde::{Deserialize, Serialize};

use crate::observe::Observer;

/// First byte of what a host says about itself, its version; then JSON.
const VERSION: u8 = b'1';

/// What this host says about itself to the others before there is a store that could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct HostRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_id: Option<pgbaton_types::SystemId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<pgbaton_types::TimelineId>,
    promised: Epoch,
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

    /// What they are sent as; none before the first look.
    pub(crate) fn get(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What another host said; none: nothing that this version understands.
pub(crate) fn read(bytes: &[u8]) -> Option<HostFacts> {
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

/// Where the facts come from.
pub(crate) struct Parts<'a> {
    /// What the loop has seen.
    pub(crate) seen: &'a Observation,
    /// The highest epoch that this member has seen.
    pub(crate) promised: Epoch,
    /// The deadline that the guard enforces.
    pub(crate) enforced: Option<BootTime>,
    /// Until when a lease may run that was asked for, and of which nothing was heard.
    pub(crate) attempted: BootTime,
    /// Who reads the files.
    pub(crate) observer: &'a Observer,
}

/// The facts of this host.
pub(crate) fn of(parts: &Parts<'_>) -> HostFacts {
    let seen = parts.seen;
    let server = &seen.local.server;
    let deadline = parts.enforced.max(seen.lease.map(|lease| lease.deadline)).max(Some(parts.attempted));
    let database = match &seen.local.directory {
        Directory::Database(database) => Some(database),
        _ => None,
    };
    let running = match server {
        Server::Running { answer: Answer::Standby(standby), .. } => Some(standby.history.timeline()),
        Server::Running { answer: Answer::Primary(primary), .. } => Some(primary.history.timeline()),
        _ => None,
    };
    // The files matter only while no store tells the numbers that were given out.
    let unknown = !matches!(seen.store.cluster.initialize, Initialize::Done(_));
    let in_files = if unknown { parts.observer.highest_timeline() } else { None };
    HostFacts {
        system_id: database.map(|database| database.system_id),
        timeline: database.map(|database| database.history.timeline()).max(running).max(in_files),
        promised: parts.promised,
        primary_may_run: !matches!(server, Server::Stopped { .. }) && server.standby().is_none(),
        lease_left: deadline.map_or(Duration::ZERO, |deadline| deadline.since(seen.now)),
    }
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
            promised: Epoch(3),
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
