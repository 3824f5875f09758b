//! The virtual address of a cluster on this host's interface: put there, announced to the neighbours, prolonged and taken away.
//!
//! Whether this host has it is decided in `pgbaton_core::address`; what is here does it. The work is a thread's of its own, [`Keeper`]: whoever
//! tells it something never waits, but for a removal, which is local and is waited for by its caller for as long as that wants.
//!
//! ```text
//!  the loop: hold(epoch, end) ─┐            ┌─ netlink: addresses with a lifetime, which the kernel ends by itself
//!  each renewal: prolong ──────┼─► keeper ──┼─ packets: gratuitous ARP, unsolicited neighbour advertisements, again and again
//!  before a stop: release ─────┘            └─► scripts' thread: state file, notify and up/down scripts, in order
//! ```
//!
//! Every address that is put anywhere has a lifetime. One without is somebody else's, and is never touched.

mod announcement;
mod error;
mod keeper;
mod netlink;
mod scripts;
mod settings;
mod state_file;
mod status;
mod worker;

pub use error::AddressError;
pub use keeper::{Keeper, Released};
pub use settings::{ManagedBy, Prefixed, Scripts, Settings};
pub use state_file::NOT_PRIMARY;
pub use status::Status;
