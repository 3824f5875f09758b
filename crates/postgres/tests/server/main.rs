//! Everything against real servers of PostgreSQL.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests, too")]

mod common;

mod backup;
mod control;
mod files;
mod promotion;
mod proof;
mod rejoin;
mod senders;
mod sql;
