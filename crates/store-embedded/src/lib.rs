//! The embedded store: a voter of Raft in each member, so that nobody has to run a store beside the database.
//!
//! [`EmbeddedStore`] is opened by the agent and used through [`pgbaton_store::Store`]. Inside, openraft replicates the
//! commands of [`pgbaton_store::Machine`] over a log of our own (preallocated segments, one sync for each change) and over
//! authenticated connections of `pgbaton-net`.
//!
//! ```text
//!   EmbeddedStore -- operations --> Node (leader: itself, else forwarded to the leader's Node)
//!                                     |-- openraft -- Log -- thread -- Journal -- segments
//!                                     |            \- StateMachine: Machine, watches, lease times
//!                                     |-- forming: who are the others; initialise, join
//!                                     \-- duties: ends leases, hands leadership over
//! ```
//!
//! **What holds for leases** (time to live T, measured by `CLOCK_BOOTTIME` of the Raft leader): a lease does not end before T
//! has passed since the arrival of its last renewal that was answered with yes, also over changes of the leader, freezes and
//! slow disks; it ends at the latest T, plus 100 ms, plus the commit of one entry, after that arrival; and when the
//! leader changed in between, T plus the same after the new leader began. While there is no leader none ends.
//!
//! This crate must not know what the keys mean, nor decide who may be primary.

mod client;
mod codec;
mod disk;
mod disk_pace;
mod duties;
mod embedded;
mod etcd;
mod forming;
mod identity;
mod journal;
mod log;
mod network;
mod node;
mod pipeline;
mod protocol;
mod raft_types;
mod read_barrier;
mod snapshot_file;
mod state_machine;
#[cfg(test)]
mod tests;
mod timing;

pub use embedded::{EmbeddedStore, Listen, OpenError, Options, Status};
pub use etcd::ServerTls;
pub use forming::PeerFact;
pub use identity::IdentityError;
pub use journal::JournalError;
pub use node::HostFacts;
pub use protocol::Introduction;
