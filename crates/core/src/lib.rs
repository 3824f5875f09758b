//! The decision core of pgbaton: what a member does now, and why. Pure.
//!
//! [`decide()`] takes [`Settings`] and an [`Observation`] and returns a [`Decision`]: actions of a closed set, the moment to
//! look again, what to remember, and a report in which each step says what came of it. There is no clock, no
//! randomness, no I/O, no async and no log in this crate; the same observation gives the same decision. What an agent
//! does around it: observe, decide, execute, again at each event.
//!
//! ```text
//!             nobody holds the lease                      the lease is held by
//!        ┌──────────────┴──────────────┐             ┌────────────┴────────────┐
//!    no data: bootstrap           data: race       another: follower        this one: leader
//!    (claim, initdb, lease)    (ask, rank, lease)  (clone, rejoin, follow)  (start, promote, keep, hand over)
//! ```
//!
//! Before any of these a server that must not run as it does is stopped (`steps/demotion.rs`). Rules that hold for every
//! decision are written once more in [`safety`], independently of the steps, and checked in the simulator and in production.

pub mod address;
pub mod bugs;
mod decide;
pub mod decision;
pub mod election;
pub mod execution;
mod facts;
pub mod lease;
pub mod memory;
pub mod observation;
mod plan;
pub mod report;
pub mod safety;
mod settings;
mod steps;

pub use address::Address;
pub use bugs::{Bug, Bugs};
pub use decide::decide;
pub use decision::{Action, CHECKPOINT_TIME, Decision, Disarm, OperationKind, QuarantineReason, StopMode};
pub use memory::Memory;
pub use observation::Observation;
pub use report::{Finding, Step, Verdict};
pub use settings::{Settings, WithoutPause};
