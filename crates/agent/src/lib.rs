//! The agent of one member: observe, decide, execute, again at each event.
//!
//! [`pgbaton_core`] makes every choice about the cluster; what is here looks at the world, carries decisions out and says what came of them. An
//! `if` about the state of the cluster in this crate is a bug in the core.

mod address;
mod clients;
mod clock;
mod connect;
mod context;
pub mod event;
mod execute;
mod ha_loop;
mod host_facts;
mod keeper;
mod keys;
mod known_members;
mod lease_actions;
mod left_lease;
pub mod logging;
mod member_slots;
mod observe;
mod operation;
mod operations;
mod orders;
mod peers;
mod publish;
mod record;
pub mod rest;
mod run;
mod scheduled;
mod serve_peer;
mod settings;
pub mod shared;
mod snapshot;
mod spec;
mod startup;
mod state;
mod store_thread;
mod unguarded;
mod view;
mod witness;

pub use connect::{client_options, follower_options};
pub use run::{Options, run};
pub use witness::witness;
