//! What a process leaves to the one after it: which databases it has paused, and what it has set for a while.

use std::io;
use std::path::Path;

use pgbaton_sys::durable;
use pgbaton_types::{Epoch, MemberName};
use serde::{Deserialize, Serialize};

/// Who may read it: it holds no secret.
const MODE: u32 = 0o644;

/// The version of this format.
const VERSION: u32 = 1;

/// What was changed in a PgBouncer and is to be changed back, and whom it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    version: u32,
    /// Databases that are paused.
    pub(crate) paused: Vec<String>,
    /// What `server_login_retry` was.
    pub(crate) login_retry: Option<String>,
    /// The reign whose primary is the one that is used, and the primary's name.
    pub(crate) followed: Option<(Epoch, MemberName)>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { version: VERSION, paused: Vec::new(), login_retry: None, followed: None }
    }
}

impl Kept {
    /// What is kept; nothing when there is no such file. One that cannot be read is said.
    pub(crate) fn read(path: &Path) -> Self {
        let read = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            read => read.and_then(|bytes| Ok(serde_json::from_slice::<Self>(&bytes)?)),
        };
        match read {
            Ok(kept) if kept.version == VERSION => kept,
            Ok(_) => {
                tracing::error!(path = %path.display(), "the state of a PgBouncer is of another version: look whether its databases are paused");
                Self::default()
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the state of a PgBouncer cannot be read: look whether its databases are paused");
                Self::default()
            }
        }
    }

    /// Keeps it.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        durable::replace(path, &text, MODE).map_err(io::Error::other)
    }
}
