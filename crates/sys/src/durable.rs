//! Files that are there after a power cut: either the old content or the new one, never a part.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A step of [`replace`] or [`sync_directory`] that failed. The file still has its old content, unless only the last
/// step failed: then it may have either after a power cut.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}")]
pub struct DurableError {
    /// What was being done: "create", "write", "sync", "rename to".
    pub step: &'static str,
    /// The file or directory it was done to.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Replaces the content of `path` by `bytes`, with permission bits `mode`: writes a new file beside it, syncs it, renames
/// it over `path` and syncs the directory. Two writers at once are the callers' to prevent.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let error = |step, path: &Path, source| DurableError { step, path: path.to_owned(), source };
    let mut name = OsString::from(path);
    name.push(".pgbaton-new");
    let new = PathBuf::from(name);
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)
        .map_err(|source| error("create", &new, source))
        .and_then(|mut file| {
            // The creation mask may have taken bits away, or the file may be an old one of another mode.
            file.set_permissions(Permissions::from_mode(mode)).map_err(|source| error("create", &new, source))?;
            file.write_all(bytes).map_err(|source| error("write", &new, source))?;
            file.sync_all().map_err(|source| error("sync", &new, source))
        })
        .and_then(|()| std::fs::rename(&new, path).map_err(|source| error("rename to", path, source)));
    if let Err(error) = written {
        // The first error is the one that tells; a leftover is overwritten by the next attempt.
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes changes of names in `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<(), DurableError> {
    // The parent of a bare name is the empty path.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|source| DurableError {
        step: "sync",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::replace;

    #[test]
    fn content_and_mode_are_replaced_and_nothing_is_left_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_keeps_the_old_and_names_the_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = replace(&path, b"x", 0o600).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot rename to {}", path.display()));
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
