//! What a process leaves to the one after it: which databases it has paused, what it has set for a while, and which connections are old.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use pgbaton_sys::durable;
use pgbaton_types::{Epoch, MemberName};
use serde::{Deserialize, Serialize};

use crate::console::LinkId;

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
    /// Connections that were left to the primaries before it.
    #[serde(default)]
    pub(crate) old: BTreeSet<LinkId>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { version: VERSION, paused: Vec::new(), login_retry: None, followed: None, old: BTreeSet::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_before_there_were_old_connections_is_read() {
        let text = r#"{"version":1,"paused":["app_rw"],"login_retry":"15","followed":[7,"a"]}"#;
        let kept: Kept = serde_json::from_str(text).expect("what an earlier version wrote");
        let followed = Some((Epoch(7), "a".parse().expect("a name")));
        let [paused, login_retry] = ["app_rw", "15"].map(str::to_owned);
        let wanted = Kept { paused: vec![paused], login_retry: Some(login_retry), followed, ..Kept::default() };
        assert_eq!(kept, wanted);
    }
}
