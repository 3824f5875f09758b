//! The operating system, as far as pgbaton needs more of it than the standard library gives: clocks, timers, processes,
//! signals, durable files. Linux only.
//!
//! This is the only crate with `unsafe`; each block says why it is sound. It knows nothing of leases, servers or
//! clusters, and depends on no other crate of the workspace. What the guard calls after its start allocates nothing;
//! the modules say where that holds.

pub mod cgroup;
pub mod child;
pub mod clock;
pub mod command;
pub mod durable;
pub mod inherited;
pub mod lock;
pub mod packet;
pub mod pidfd;
pub mod process;
pub mod proctree;
pub mod rights;
pub mod seqpacket;
pub mod shared;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod timer;
pub mod watched;

pub use rustix::process::{Pid, Signal};
