//! What pgbaton says to the outside: the REST API in Patroni's terms, the records in the store, and the messages
//! between members. Types and pure functions only: no socket, no clock, no server is touched here, and nothing is
//! decided that the decision core decides.

pub mod layout;

mod baton;
mod cluster;
mod explain;
mod health;
mod json;
mod metrics;
mod peer;
mod reply;
mod requests;
mod schedule;
mod state;
mod status;
mod values;

pub use baton::{Baton, ServerAt, StoredKey, View};
pub use cluster::{ClusterDocument, ClusterMember, ClusterView, OrUnknown, ScheduledSwitchover};
pub use explain::{Eligibility, Explain, ExplainedGuard, ExplainedLease, ExplainedStep, Guarantee, StepOutcome};
pub use health::{HealthInput, ReadinessInput, health_code, is_health_path, liveness_code, readiness_code};
pub use json::{to_compact, to_loose};
pub use metrics::Metrics;
pub use peer::{
    PATH_POSITION, PATH_PREPARE, PATH_PROVE, PeerHost, Position, PrepareReply, PrepareRequest, Proof, ProveRequest,
};
pub use reply::{Handover, Reply};
pub use requests::{ReinitializeRequest, RestartFilters, RestartRequest, RoleFilter, SwitchoverRequest, TargetView};
pub use schedule::{iso, iso_loose, parse_schedule};
pub use state::{PostgresState, Role, UnknownWord};
pub use status::{Program, ReplicationRow, StatusDocument, Xlog};
pub use values::{Unit, VersionError, parse_bool, parse_integer, parse_version};

/// The Patroni release whose interface this is. Published as the member's `version`: other members and tools choose
/// record formats by it, and from 4.0.0 on they are those that are written here.
pub const INTERFACE_VERSION: &str = "4.1.4";
