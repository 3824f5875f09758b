//! What a consistent store must do for pgbaton, and the parts that every store of ours is made of.
//!
//! * [`Store`] is what the agent sees: linearizable snapshots and transactions, leases, watches.
//! * [`Machine`] is the replicated state: a pure key-value and lease machine in the manner of etcd, without clock,
//!   without async, so that a simulator can drive it directly. [`LeaseTimes`] is the clock side of leases: it belongs
//!   to whoever leads, is never replicated and takes the time as an argument.
//! * [`MemoryStore`] is a store in one process on an injected clock, and [`conformance`] is the suite that every
//!   store must pass.
//!
//! No I/O and no clock of its own anywhere in this crate; nothing here knows database servers.

mod command;
pub mod conformance;
mod error;
mod event_ring;
mod first_machine;
mod key_range;
mod keyspace;
mod kv;
mod lease_times;
mod machine;
mod memory;
mod reading;
mod session;
mod store;
mod watch;

pub use command::{Command, Compare, CompareOrdering, Op, OpResponse, Response, Txn, TxnResult};
pub use error::{BoxedError, Refusal, StoreError};
pub use event_ring::EventRing;
pub use first_machine::FirstMachine;
pub use key_range::KeyRange;
pub use keyspace::{Change, Entry, Keyspace, RevisionError};
pub use kv::{Figure, KvAnswer, KvCompare, KvDone, KvOp, KvRefusal, KvTxn, KvTxnAnswer, Put, PutLease, Relation};
pub use lease_times::{LeaseTimes, RenewalBarrier};
pub use machine::{Applied, Event, EventKind, KeyValue, LeaseId, Machine, limits};
pub use memory::{ManualClock, MemoryStore, Outage};
pub use reading::{Pair, RangeAnswer, RangeQuery, SortOrder, SortTarget};
pub use session::{Session, Terms};
pub use store::{BoxFuture, Health, Lease, Renewal, Snapshot, Store, Voter};
pub use watch::{Watch, WatchItem, WatchSender};
