use std::collections::BTreeMap;

use pgbaton_types::Revision;
use serde::Deserialize;

use crate::{Entry, Keyspace, LeaseId, Machine};

/// The state as the first version of this crate wrote it: keys without history. To be read, never written.
#[derive(Debug, Deserialize)]
pub struct FirstMachine {
    revision: Revision,
    keys: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, u64>,
}

impl From<FirstMachine> for Machine {
    fn from(first: FirstMachine) -> Self {
        let keys = first.keys.into_iter().map(|(key, entry)| (key.into_bytes(), entry));
        Self::with(Keyspace::without_history(first.revision, keys), first.leases)
    }
}
