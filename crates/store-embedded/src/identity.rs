use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};

const FILE: &str = "identity";

/// Who this node is; kept beside its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Random, written once. A directory that was lost comes back with another one, and so never with its old vote.
    pub(crate) node_id: u64,
    /// Written once, when the node becomes part of a cluster.
    pub(crate) cluster_id: Option<u64>,
    /// Written once, when the log was made: from then on a missing log is a loss and no beginning.
    pub(crate) has_log: bool,
}

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system said no.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content makes no sense, or another version wrote it.
    #[error("{} is not an identity of a store of this version: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It could not be written.
    #[error("the store's identity cannot be written")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Identity {
    /// Reads it; `None`: there is none yet.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => codec::decode(&bytes)
                .map(Some)
                .map_err(|error: CodecError| IdentityError::Content { path, problem: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// Writes it durably.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), IdentityError> {
        pgbaton_sys::durable::replace(&directory.join(FILE), &codec::encode(self), 0o600)
            .map_err(|error| IdentityError::Write(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_on_disk_stays() {
        let identity = Identity { node_id: 300, cluster_id: Some(7), has_log: true };
        let bytes = [1, 0xac, 0x02, 1, 7, 1];
        assert_eq!(codec::encode(&identity), bytes);
        assert_eq!(codec::decode::<Identity>(&bytes), Ok(identity));
        assert_eq!(codec::decode::<Identity>(&[2, 0]), Err(CodecError::Version { found: 2, known: 1 }));
    }
}
