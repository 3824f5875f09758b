//! Locks on files that live as long as their descriptor, whichever thread or library opens the file besides.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another open file description holds it.
    #[error("{path} is locked by another process")]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// An exclusive lock, held until dropped. It is an "open file description" lock (`F_OFD_SETLK`, `fcntl(2)`): unlike those of
/// POSIX, it is not lost when some other descriptor of the file is closed. Not inherited by programs that are started.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Opens `path`, making the file if it is missing, and locks it; does not wait.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        // SAFETY: a `flock` of zeroes is valid: from the start to the end of the file, and no owner, as OFD locks want.
        let mut request: libc::flock = unsafe { std::mem::zeroed() };
        let short = |value| libc::c_short::try_from(value).expect("the constants of fcntl fit their own fields");
        request.l_type = short(libc::F_WRLCK);
        request.l_whence = short(libc::SEEK_SET);
        // SAFETY: the descriptor is open and the request lives through the call.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => LockError::Held { path: path.to_owned() },
                _ => failed(error),
            });
        }
        Ok(Self { file })
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::{FileLock, LockError};

    #[test]
    fn a_lock_is_exclusive_and_survives_other_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = FileLock::acquire(&path).unwrap();
        drop(std::fs::File::open(&path).unwrap());
        assert!(matches!(FileLock::acquire(&path), Err(LockError::Held { .. })));
        drop(lock);
        FileLock::acquire(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = FileLock::acquire(std::path::Path::new("/no/such/lock")).unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /no/such/lock");
    }
}
