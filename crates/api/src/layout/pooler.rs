use pgbaton_types::Epoch;
use serde::{Deserialize, Serialize};

/// In the holder's record: poolers are to hold their clients, since its server is about to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausingRecord {
    /// The reign that is about to end.
    pub epoch: Epoch,
    /// Tells this asking from others of the same reign.
    pub id: u64,
}

/// A pooler that clients go through: the value of `pgbaton/poolers/<name>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolerRecord {
    /// The [`PausingRecord::id`] that it has answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// It holds its clients since then.
    #[serde(default)]
    pub holds: bool,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
