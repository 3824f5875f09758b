//! The embedded store beside a real etcd: the same calls to both, every field of every answer compared.
//!
//! No expectation is written down here: what etcd answers is what is expected, in the same run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod etcdctl;
mod generated;
mod pair;
mod python;
mod watching;
mod written;
