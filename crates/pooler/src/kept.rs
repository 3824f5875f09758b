//! What a process leaves to the one after it: which databases it has paused, and what it has set for a while.

use std::io;
use std::path::Path;

use pgbaton_sys::durable;
use serde::{Deserialize, Serialize};

/// Who may read it: it holds no secret.
const MODE: u32 = 0o644;

/// What was changed in a PgBouncer and is to be changed back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Databases that are paused.
    pub(crate) paused: Vec<String>,
    /// What `server_login_retry` was.
    pub(crate) login_retry: Option<String>,
}

impl Kept {
    /// What is kept; nothing when there is no such file, or when nobody can read it.
    pub(crate) fn read(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps it; nothing to be kept is no file.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        if *self == Self::default() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
        let text = serde_json::to_vec(self)?;
        durable::replace(path, &text, MODE).map_err(io::Error::other)
    }
}
