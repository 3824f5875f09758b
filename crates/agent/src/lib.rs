//! The agent of one member: observe, decide, execute, again at each event.
//!
//! [`pgbaton_core`] makes every choice about the cluster; what is here looks at the world, carries decisions out and says what came of them. An
//! `if` about the state of the cluster in this crate is a bug in the core.

pub mod event;
pub mod shared;
