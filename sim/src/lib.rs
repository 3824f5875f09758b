//! A deterministic simulator of pgbaton's decision core.
//!
//! The real core decides in agents that are models, over models of PostgreSQL, guards, a network and the real state machine
//! of the store. One seed drives everything: the cluster, the faults, the clients, the operators and every delay, so that
//! each run can be had again, byte for byte. After a phase with faults comes one without, in which the cluster must
//! become well again. Nothing here touches a clock, a disk or a socket.

mod address_model;
mod agent_model;
mod event;
mod execute;
mod faults;
mod guard_model;
mod host;
mod invariants;
mod layout;
mod liveness;
mod network;
mod operations;
mod operator_model;
mod pooler_model;
mod postgres_model;
mod rng;
mod run;
mod scenario;
mod server_model;
mod store_model;
mod talk;
mod time;
mod wal;
mod world;
mod writer_model;

pub use invariants::Violation;
pub use run::{Outcome, run};
