use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, SystemId, TimelineId};

/// The shutdown checkpoint of a cleanly stopped primary, as proof material: whoever holds this very record on this
/// timeline holds everything that the primary ever wrote.
///
/// Read from `global/pg_control` and the record's own WAL segment after the server stopped. The CRC and the previous
/// record's position tell the record from another one at the same position in a history that diverged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShutdownCheckpoint {
    /// The database cluster.
    pub system_id: SystemId,
    /// The timeline of the record.
    pub timeline: TimelineId,
    /// Where the record begins.
    pub start: Lsn,
    /// The first position after the record: a successor has received at least this much.
    pub end: Lsn,
    /// `xl_prev` of the record: where the record before it begins.
    pub previous: Lsn,
    /// `xl_crc` of the record.
    pub crc: u32,
}

impl fmt::Display for ShutdownCheckpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "shutdown checkpoint {}..{} on timeline {}", self.start, self.end, self.timeline)
    }
}
