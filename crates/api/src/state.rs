use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a member's server, as published. The order is that of the metric's indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum PostgresState {
    /// `initdb` runs.
    Initdb,
    /// `initdb` failed.
    InitdbFailed,
    /// A script makes the cluster.
    CustomBootstrap,
    /// The script failed.
    CustomBootstrapFailed,
    /// A copy of another member is made.
    CreatingReplica,
    /// The server accepts connections.
    Running,
    /// The server was started and does not accept connections yet.
    Starting,
    /// The same after a custom bootstrap.
    BootstrapStarting,
    /// The server did not start.
    StartFailed,
    /// The server is restarted.
    Restarting,
    /// The restart failed.
    RestartFailed,
    /// The server is stopping.
    Stopping,
    /// The server was stopped.
    Stopped,
    /// The server could not be stopped.
    StopFailed,
    /// The server ended by itself.
    Crashed,
}

/// All states in the order of their indexes, with the metric's name and the published text.
const STATES: &[(PostgresState, &str, &str)] = &[
    (PostgresState::Initdb, "initdb", "initializing new cluster"),
    (PostgresState::InitdbFailed, "initdb_failed", "initdb failed"),
    (PostgresState::CustomBootstrap, "custom_bootstrap", "running custom bootstrap script"),
    (PostgresState::CustomBootstrapFailed, "custom_bootstrap_failed", "custom bootstrap failed"),
    (PostgresState::CreatingReplica, "creating_replica", "creating replica"),
    (PostgresState::Running, "running", "running"),
    (PostgresState::Starting, "starting", "starting"),
    (PostgresState::BootstrapStarting, "bootstrap_starting", "starting after custom bootstrap"),
    (PostgresState::StartFailed, "start_failed", "start failed"),
    (PostgresState::Restarting, "restarting", "restarting"),
    (PostgresState::RestartFailed, "restart_failed", "restart failed"),
    (PostgresState::Stopping, "stopping", "stopping"),
    (PostgresState::Stopped, "stopped", "stopped"),
    (PostgresState::StopFailed, "stop_failed", "stop failed"),
    (PostgresState::Crashed, "crashed", "crashed"),
];

impl PostgresState {
    /// The published text.
    pub fn as_str(self) -> &'static str {
        STATES[self.index()].2
    }

    /// The value of the metric `patroni_postgres_state`.
    pub fn index(self) -> usize {
        self as usize
    }

    /// All states as `index=name`, for the comment of the metric.
    pub(crate) fn legend() -> String {
        let pairs: Vec<String> =
            STATES.iter().enumerate().map(|(index, (_, name, _))| format!("{index}={name}")).collect();
        pairs.join(", ")
    }
}

/// A text that is none of the published ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state or role of the interface")]
pub struct UnknownWord(String);

impl FromStr for PostgresState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        STATES.iter().find(|(_, _, word)| *word == text).map(|(s, _, _)| *s).ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

impl TryFrom<String> for PostgresState {
    type Error = UnknownWord;

    fn try_from(text: String) -> Result<Self, UnknownWord> {
        text.parse()
    }
}

impl From<PostgresState> for &'static str {
    fn from(state: PostgresState) -> Self {
        state.as_str()
    }
}

impl fmt::Display for PostgresState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// The role of a member's server, as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It accepts writes. Old members wrote `master`.
    #[serde(alias = "master")]
    Primary,
    /// The first standby of a standby cluster.
    StandbyLeader,
    /// A standby.
    Replica,
    /// It was the primary, and was stopped.
    Demoted,
    /// It has no data.
    Uninitialized,
    /// It is being promoted.
    Promoted,
}

impl Role {
    /// The published text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::StandbyLeader => "standby_leader",
            Self::Replica => "replica",
            Self::Demoted => "demoted",
            Self::Uninitialized => "uninitialized",
            Self::Promoted => "promoted",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_states() {
        for (index, (state, _, text)) in STATES.iter().enumerate() {
            assert_eq!(state.index(), index);
            assert_eq!(text.parse::<PostgresState>().as_ref(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), *text);
        }
        assert!("up".parse::<PostgresState>().is_err());
    }

    #[test]
    fn roles_are_written_and_read() {
        assert_eq!(serde_json::from_str::<Role>("\"master\"").unwrap(), Role::Primary);
        assert_eq!(serde_json::to_string(&Role::StandbyLeader).unwrap(), "\"standby_leader\"");
        assert_eq!(Role::StandbyLeader.to_string(), "standby_leader");
    }
}
