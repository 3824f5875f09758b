//! The virtual address with real members: in network namespaces as root; without root, what a member says that may not have it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/common.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod common;

mod ground;
mod keepalived;
mod mistakes;
mod moves;
mod outlived;

use common::*;
use pgbaton_testkit::cluster::StoreKind;

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;
