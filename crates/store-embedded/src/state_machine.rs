use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use pgbaton_store::{EventRing, FirstMachine, LeaseTimes, Machine};
use pgbaton_types::{BootTime, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::codec::{self, CodecError};
use crate::log::Log;
use crate::raft_types::alias::{Entry, LogIdT, Membership, Snapshot, SnapshotMeta};
use crate::raft_types::{Answer, TypeConfig};

/// How many recent changes each node keeps for its watchers: minutes of a busy cluster.
const EVENTS_MAX: usize = 2_000;

/// The applied state, and what belongs to it on this node only.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) machine: Machine,
    pub(crate) ring: EventRing,
    /// The revision of `machine`, for those who wait for the next one.
    pub(crate) revisions: watch::Sender<Revision>,
    /// Meaningful only while this node leads.
    pub(crate) times: LeaseTimes,
    /// The term in which this node leads, as far as `times` is concerned.
    pub(crate) leads_in: Option<u64>,
    last: Option<LogIdT>,
    membership: Membership,
    snapshot: Option<Snapshot>,
}

/// The applied state as a snapshot.
#[derive(Serialize, Deserialize)]
struct SnapshotRecord {
    last: Option<LogIdT>,
    membership: Membership,
    machine: Machine,
}

/// The version of [`SnapshotRecord`].
const SNAPSHOT_VERSION: u8 = 2;

/// The snapshot of version 1, whose keys had no history.
#[derive(Deserialize)]
struct FirstSnapshotRecord {
    last: Option<LogIdT>,
    membership: Membership,
    machine: FirstMachine,
}

impl SnapshotRecord {
    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        match codec::decode_as(SNAPSHOT_VERSION, bytes) {
            Err(CodecError::Version { found: codec::VERSION, .. }) => {
                let FirstSnapshotRecord { last, membership, machine } = codec::decode(bytes)?;
                Ok(Self { last, membership, machine: machine.into() })
            }
            read => read,
        }
    }
}

/// openraft's state machine over [`Machine`]. Clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct StateMachine {
    applied: Arc<Mutex<Applied>>,
    log: Log,
}

impl StateMachine {
    /// The state of a snapshot, or an empty one. Fails when the log does not go on from there.
    pub(crate) fn new(log: Log, snapshot: Option<Vec<u8>>) -> io::Result<Self> {
        let mut applied = Applied {
            machine: Machine::new(),
            ring: EventRing::new(EVENTS_MAX, Machine::new().revision()),
            revisions: watch::Sender::new(Machine::new().revision()),
            times: LeaseTimes::default(),
            leads_in: None,
            last: None,
            membership: Membership::default(),
            snapshot: None,
        };
        if let Some(bytes) = snapshot {
            applied.replace(bytes)?;
        }
        let purged = log.purged();
        if applied.last < purged {
            let (last, purged) = (applied.last.map(|last| last.index), purged.map(|purged| purged.index));
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the newest whole snapshot reaches entry {last:?}, but the log begins after {purged:?}: the snapshot \
                     files are damaged. Remove the directory: this member then joins again as a new voter"
                ),
            ));
        }
        Ok(Self { applied: Arc::new(Mutex::new(applied)), log })
    }

    /// The state. Never held over an await.
    pub(crate) fn locked(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now() -> BootTime {
    BootTime(pgbaton_sys::clock::boottime())
}

impl Applied {
    fn replace(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let record: SnapshotRecord =
            SnapshotRecord::read(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.ring.reset(record.machine.revision());
        self.machine = record.machine;
        self.revisions.send_replace(self.machine.revision());
        self.last = record.last;
        self.membership = record.membership.clone();
        let meta = SnapshotMeta { last_log_id: record.last, last_membership: record.membership };
        self.snapshot = Some(Snapshot { meta, snapshot: bytes });
        if self.leads_in.is_some() {
            self.times.follow(now(), &self.machine);
        }
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Answer {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Answer(None),
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                Answer(None)
            }
            EntryPayload::Normal(request) => {
                let applied = self.machine.apply(&request.0);
                // All of them are gone through: only where one may have come or gone.
                if self.leads_in.is_some() && request.0.changes_leases() {
                    self.times.follow(now(), &self.machine);
                }
                self.ring.publish(&applied.events);
                let revision = self.machine.revision();
                self.revisions.send_if_modified(|told| std::mem::replace(told, revision) != revision);
                Answer(Some(applied.result))
            }
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, bytes) = {
            let applied = self.locked();
            let record = SnapshotRecord {
                last: applied.last,
                membership: applied.membership.clone(),
                machine: applied.machine.clone(),
            };
            let meta = SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership.clone() };
            (meta, codec::encode_as(SNAPSHOT_VERSION, &record))
        };
        self.log.save_snapshot(bytes.clone()).await?;
        let snapshot = Snapshot { meta, snapshot: bytes };
        self.locked().snapshot = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdT>, Membership)> {
        let applied = self.locked();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let answer = self.locked().apply(entry);
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        // Durable before it counts: openraft purges the log behind it afterwards.
        self.log.save_snapshot(snapshot.clone()).await?;
        self.locked().replace(snapshot)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.locked().snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pgbaton_store::LeaseId;
    use pgbaton_types::Revision;

    use super::*;
    use crate::raft_types::Request;

    /// Commands as version 1 wrote them: a lease of 10 s with the number 7; `/a` = 1, and `/l` = h1 under the lease; `/a` = 2; `/b` = 3; `/b`
    /// deleted.
    const COMMANDS: [&str; 5] = [
        "010107904e",
        "01000100022f6100000200022f6101310000022f6c026831010700",
        "0100000100022f6101320000",
        "0100000100022f6201330000",
        "0100000101022f6200",
    ];

    /// The snapshot that version 1 made after them.
    const SNAPSHOT: &str = "01000000000502022f61013202030200022f6c02683102020101070107904e";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_version_one_wrote_is_read() {
        let mut replayed = Machine::new();
        for command in COMMANDS {
            let request: Request = codec::decode(&bytes(command)).unwrap();
            replayed.apply(&request.0);
        }
        let read = SnapshotRecord::read(&bytes(SNAPSHOT)).unwrap().machine;
        let all = read.range("/");
        let keys: Vec<_> = all.iter().map(|pair| (pair.key.as_str(), pair.value.as_slice())).collect();
        assert_eq!(keys, [("/a", b"2".as_slice()), ("/l", b"h1".as_slice())]);
        assert_eq!((all[0].create_revision, all[0].mod_revision, all[0].version), (Revision(2), Revision(3), 2));
        assert_eq!(read.revision(), Revision(5));
        assert_eq!(read.leases().collect::<Vec<_>>(), [(LeaseId(7), Duration::from_secs(10))]);
        assert_eq!(read.keys_under(LeaseId(7)), [b"/l"]);
        assert_eq!(all, replayed.range("/"), "the log and the snapshot say the same");
        assert_eq!(read.revision(), replayed.revision());
    }
}
