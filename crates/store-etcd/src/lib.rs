//! A store that speaks etcd's client protocol (v3, gRPC): a real etcd, or the embedded store of another member.
//!
//! ```text
//!   EtcdStore ---- call ----> endpoints: one is used, another one as soon as it fails
//!       |            |           ^
//!       |            |       discovery: DNS and the members themselves name more
//!    convert      judge: what a failed call says: not done, maybe done, no
//! ```
//!
//! A change is never sent twice: if no answer came it may have been done, and the caller is told so. Whatever certainly was not done
//! (no connection, no leader, a token that is too old) is tried with the next endpoint until the deadline.
//!
//! This crate must not know what the keys mean.

mod call;
mod convert;
mod discovery;
mod endpoints;
mod judge;
mod membership;
mod options;
mod releases;
mod store;
mod watching;

pub use options::{Options, OptionsError, Srv, TlsFiles};
pub use store::EtcdStore;
