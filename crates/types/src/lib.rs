//! The words that every part of pgbaton shares: positions in the WAL, timelines, identities, epochs and times.
//!
//! A leaf: no I/O, no clock, no async. A value here is either valid or cannot be made; what is parsed from text says
//! in its error what was expected.

mod chain;
mod checkpoint;
mod epoch;
mod history;
mod lsn;
mod member;
mod system;
mod time;

pub use chain::chain;
pub use checkpoint::ShutdownCheckpoint;
pub use epoch::{Epoch, Revision};
pub use history::{Divergence, HistoryEntry, TimelineHistory};
pub use lsn::Lsn;
pub use member::MemberName;
pub use system::{SystemId, TimelineId};
pub use time::BootTime;

/// Why a text is not one of this crate's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read from {text:?}: expected {expected}")]
pub struct ParseError {
    /// The kind of value that was wanted, such as "an LSN".
    pub what: &'static str,
    /// The text that was given.
    pub text: String,
    /// What a valid text looks like.
    pub expected: &'static str,
}

impl ParseError {
    fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.to_owned(), expected }
    }
}
