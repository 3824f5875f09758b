//! Real clusters of the binary: three members with the embedded store and PostgreSQL on loopback, hurt and looked at from
//! outside. Each test goes through several phases with one cluster, since making one costs seconds. The long forms are
//! `cargo xtask trials`.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod agent_killed;
mod archive;
mod common;
mod failover;
mod formation;
mod identity;
mod moving;
mod pause;
mod postmaster_killed;
mod restart;
mod slots;
mod slow_start;
mod store_command;
mod switchover;
mod witness;

use common::*;
use pgbaton_testkit::cluster::StoreKind;

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;
