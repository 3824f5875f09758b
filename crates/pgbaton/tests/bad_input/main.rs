//! Bad input, as a table: what is wrong, what is said about it, with which exit code the member ends. The real binary, and where it
//! matters a real server. In every case nothing is lost: what was there before is there afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;
mod ground;
mod passwords;
mod peers;
mod start;
