//! The same as in `cluster`, with a real etcd as the store: what is there is said there.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/agent_killed.rs"]
mod agent_killed;
#[path = "../cluster/archive.rs"]
mod archive;
#[path = "../cluster/common.rs"]
mod common;
#[path = "../cluster/failover.rs"]
mod failover;
#[path = "../cluster/pause.rs"]
mod pause;
#[path = "../cluster/postmaster_killed.rs"]
mod postmaster_killed;
#[path = "../cluster/restart.rs"]
mod restart;
#[path = "../cluster/slots.rs"]
mod slots;
#[path = "../cluster/slow_start.rs"]
mod slow_start;
#[path = "../cluster/switchover.rs"]
mod switchover;

mod patroni;
mod store_faults;

use common::*;
use pgbaton_testkit::cluster::StoreKind;

/// The store of the clusters here, where a test does not ask for more members of it.
const STORE: StoreKind = StoreKind::Etcd(1);
