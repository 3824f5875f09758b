//! A PgBouncer that follows the cluster, through its admin console (PgBouncer documentation, "Admin console").
//!
//! - In a switchover its clients wait: the databases that lead to the primary are paused when the holder asks for it, it is looked at that
//!   the pause holds, and they go on when somebody takes writes again.
//! - After every change of the primary no server connection to the old one is left, and nothing of what it said of itself is told to new
//!   clients.
//! - A pause ends whatever happens: with the asking, after a limit, and, when this process dies or freezes, by another one
//!   ([`watch_stdin`]), which was started before it began.
//!
//! What is to be done is decided in `plan`, whose a pause is in `pauses`, and what is to be cut in `old`, without I/O; [`Pooler`] does it.

mod console;
mod kept;
mod old;
mod pauses;
mod plan;
mod pooler;
mod settings;
mod watcher;

pub use console::ConsoleError;
pub use plan::{Held, Step};
pub use pooler::{Pooler, PoolerError};
pub use settings::{Address, Settings};
pub use watcher::{WATCHER, watch_stdin};
