//! What tests, the demo and the bench need around a cluster: ports, directories, users, processes that end with their
//! owner, hosts that can be lost, and a writer that knows which of its rows were acknowledged.
//!
//! Everything that is taken here is given back when its value is dropped, also after a panic: ports, directories,
//! processes, namespaces. Nothing here decides about a cluster, and nothing here is part of an agent.
//!
//! ```text
//! Cluster ── pgbaton members, each on a host of its own
//! Network ── namespace per host, bridge, links that can be cut
//!    └─ Host ── one process tree below a sub-reaper: killed as a whole
//!         └─ processes: agent, guard, PostgreSQL, etcd ...
//! Writer ── commits to whichever server accepts it, remembers what was acknowledged
//! ```

pub mod address_watch;
pub mod clock;
pub mod cluster;
pub mod debian;
pub mod dirs;
pub mod etcd;
pub mod figures;
pub mod host;
pub mod install;
pub mod linear;
pub mod netns;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod python;
pub mod router;
pub mod slow_disk;
pub mod user;
pub mod voters;
pub mod wait;
pub mod writer;
pub mod zookeeper;

pub use address_watch::AddressWatch;
pub use cluster::Cluster;
pub use dirs::TempDir;
pub use etcd::{ETCD, Etcd};
pub use host::{Host, HostProgram};
pub use install::install;
pub use netns::Network;
pub use pgbouncer::PgBouncer;
pub use ports::PortLease;
pub use process::{Launch, Process};
pub use python::Venv;
pub use slow_disk::SlowDisk;
pub use user::OsUser;
pub use voters::Voters;
pub use writer::Writer;
pub use zookeeper::ZooKeeper;
