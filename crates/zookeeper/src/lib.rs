//! A client of `ZooKeeper`'s protocol, as far as records that compare-and-set and ephemeral nodes need it: one session, one connection at a time,
//! one request at a time, each with a deadline.
//!
//! ```text
//!   Client ---- session: number and password, kept over connections until the servers say that it is gone, or must have said so
//!     |
//!   Connection ---- one server of the list; the next one when it fails
//!     |
//!   jute: numbers and texts on the wire (`zookeeper.jute`)
//! ```
//!
//! Nothing runs by itself: whoever has a client must [`Client::ping`] well within the session's time. Watches and transactions over several
//! nodes are not here. Why it is not somebody else's client: `docs/adr/0007-a-zookeeper-client-of-our-own.md`.

mod client;
mod connection;
mod error;
mod jute;

pub use client::{Acl, Client, Lifetime, Node, Options, Version};
pub use error::{Code, ZooKeeperError};
