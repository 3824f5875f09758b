//! What must outlive the agent: a small file beside the data directory.
//!
//! It holds the highest epoch that was promised, the lease that is held (so that an agent that was killed goes on with it), whom the server
//! follows and whether a bootstrap is under way. Losing it costs a session, never safety: the epoch is also in the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_core::Memory;
use pgbaton_guard::wire::Postmaster;
use pgbaton_store::LeaseId;
use pgbaton_sys::durable::{self, DurableError};
use pgbaton_types::{Epoch, MemberName, Revision, TimelineId};
use serde::{Deserialize, Serialize};

/// First byte of the file, the version of what follows; then JSON.
const VERSION: u8 = b'1';

/// Only the agent reads it.
const MODE: u32 = 0o600;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// The highest epoch that this member has seen.
    pub(crate) promised: Epoch,
    /// The highest timeline number that this member has seen given out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeline_given: Option<TimelineId>,
    /// The lease that is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<KeptLease>,
    /// The member that the server's configuration names as upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<MemberName>,
    /// A new cluster is being made here: the directory is not complete, whatever it looks like.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) bootstrapping: bool,
    /// The postmaster that was told to become a primary. Until it is one, it says that it is in recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) promoting: Option<KeptPostmaster>,
    /// The other members with their REST API, as a store that lists no hosts knew them last: they are asked when it knows nothing any
    /// more.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) members: BTreeMap<MemberName, String>,
}

impl Kept {
    /// What an agent remembers when it begins.
    pub(crate) fn memory(&self) -> Memory {
        Memory { promised: self.promised, timeline_given: self.timeline_given, ..Memory::default() }
    }
}

/// A postmaster, and no later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptPostmaster {
    /// Its process id.
    pub(crate) pid: i32,
    /// When it was started, in the kernel's ticks.
    pub(crate) start_ticks: u64,
}

impl From<Postmaster> for KeptPostmaster {
    fn from(running: Postmaster) -> Self {
        Self { pid: running.pid, start_ticks: running.start_ticks }
    }
}

/// A lease as it is kept. Its deadline is not: the guard knows it, and a guard that does not has no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptLease {
    /// The reign.
    pub(crate) epoch: Epoch,
    /// The revision at which the leader key was created.
    pub(crate) created: Revision,
    /// The store's number of the lease.
    pub(crate) id: LeaseId,
    /// The time to live that was granted.
    pub(crate) granted: Duration,
}

/// Why the state is not known or not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It is of a later version or damaged.
    #[error("{} is not a state file that this version knows: move it away if no primary runs here", .0.display())]
    Format(PathBuf),
    /// It cannot be written.
    #[error("the agent's state cannot be kept")]
    Write(#[source] DurableError),
}

/// The file with its content.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    kept: Kept,
}

impl StateFile {
    /// Reads the file; a missing one is that of a new member.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StateError> {
        let kept = match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes).ok_or_else(|| StateError::Format(path.clone()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        Ok(Self { path, kept })
    }

    /// What is kept.
    pub(crate) fn get(&self) -> &Kept {
        &self.kept
    }

    /// Changes it, durably. Nothing is written when nothing changes.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Kept)) -> Result<(), StateError> {
        let mut next = self.kept.clone();
        change(&mut next);
        if next != self.kept {
            write(&self.path, &next)?;
            self.kept = next;
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<Kept> {
    let (version, rest) = bytes.split_first()?;
    (*version == VERSION).then(|| serde_json::from_slice(rest).ok()).flatten()
}

fn write(path: &Path, kept: &Kept) -> Result<(), StateError> {
    let mut bytes = vec![VERSION];
    bytes.extend(serde_json::to_vec(kept).unwrap_or_default());
    bytes.push(b'\n');
    durable::replace(path, &bytes, MODE).map_err(StateError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &[u8] =
        b"1{\"promised\":7,\"lease\":{\"epoch\":7,\"created\":5,\"id\":9,\"granted\":{\"secs\":10,\"nanos\":0}},\"upstream\":\"b\"}\n";

    fn kept() -> Kept {
        Kept {
            promised: Epoch(7),
            timeline_given: None,
            lease: Some(KeptLease {
                epoch: Epoch(7),
                created: Revision(5),
                id: LeaseId(9),
                granted: Duration::from_secs(10),
            }),
            upstream: Some("b".parse().unwrap()),
            bootstrapping: false,
            promoting: None,
            members: BTreeMap::new(),
        }
    }

    #[test]
    fn what_version_one_wrote_is_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(&path, COMMITTED).unwrap();
        assert_eq!(*StateFile::open(path.clone()).unwrap().get(), kept());
        write(&path, &kept()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), COMMITTED);
    }

    #[test]
    fn a_missing_file_is_new_and_a_strange_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert_eq!(*StateFile::open(path.clone()).unwrap().get(), Kept::default());
        for strange in [&b"2{}"[..], b"", b"1nothing"] {
            std::fs::write(&path, strange).unwrap();
            assert!(matches!(StateFile::open(path.clone()), Err(StateError::Format(_))), "{strange:?}");
        }
    }
}
