//! The router: TCP ports that always lead to the present primary, or to a standby.
//!
//! It copies bytes. Of PostgreSQL's protocol it understands the first packet of a client, to pass on cancel requests, and whether a server's first
//! answer says that it does not take connections at the moment; TLS goes through it unseen. It pools nothing.
//!
//! Who is the primary comes from outside, as a [`pgbaton_api::View`]; nothing here reads a store. What is decided by it is in [`routes`], without I/O:
//! a write connection never goes to a server of an epoch below the highest seen, and all sessions end when the view is too old.
//!
//! Each worker thread has a runtime of its own and keeps its sessions to itself; the connections of a port are accepted by one of them and
//! handed to all in turn. Beginning one is a task; what copies then is one loop over all of a worker (`pumps`).

mod accept;
mod answer;
mod cancel;
mod connect;
mod counters;
mod establish;
mod pipe;
mod port;
mod proxy;
mod pump;
mod pumps;
mod router;
pub mod routes;
mod sessions;
mod settings;
mod side;
mod startup;
mod worker;

pub use counters::Counters;
pub use port::Port;
pub use router::{Router, RouterError};
pub use settings::{Mode, PortSettings, ReadOnly, Settings, UsePrimary};
