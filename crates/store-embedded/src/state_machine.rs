use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use pgbaton_store::{EventRing, LeaseTimes, Machine};
use pgbaton_types::BootTime;
use serde::{Deserialize, Serialize};

use crate::codec;
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
            codec::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.ring.reset(record.machine.revision());
        self.machine = record.machine;
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
                if self.leads_in.is_some() {
                    self.times.follow(now(), &self.machine);
                }
                self.ring.publish(&applied.events);
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
            (meta, codec::encode(&record))
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
