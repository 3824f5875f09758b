//! The guard with real servers: each test has a host of its own, with PostgreSQL run as an unprivileged user.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail by panicking, as tests do")]

mod deadline;
mod deaths;
mod host;
mod protocol;
mod writer;
