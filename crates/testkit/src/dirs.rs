//! Temporary directories that belong to the user who works in them and go when their owner does.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::user::OsUser;

/// A directory that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the temporary directory {path}")]
pub struct DirError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A directory of one test. Removed with all that is in it when this is dropped, also after a panic; kept if
/// `PGBATON_KEEP` is set, for looking into it.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes a directory under `TMPDIR` that belongs to `user`. Its path is short, because the path of a Unix socket
    /// in it may have 107 bytes at most (unix(7)).
    pub fn new(name: &str, user: &OsUser) -> Result<Self, DirError> {
        Self::new_in(&std::env::temp_dir(), name, user)
    }

    /// Makes a directory in `parent`, on a disk that is not the temporary one, for example.
    pub fn new_in(parent: &Path, name: &str, user: &OsUser) -> Result<Self, DirError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("pgb-{name}-{}-{number}", std::process::id()));
            // 0711: other users pass through to what they are given, and cannot list.
            match fs::DirBuilder::new().mode(0o711).create(&path) {
                // A process of the same number, long gone, left this one behind.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(DirError { path, source }),
                Ok(()) => {
                    let made = Self { path: path.clone() };
                    user.own(&path).map_err(|source| DirError { path, source })?;
                    return Ok(made);
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory inside that belongs to `user` and to nobody else.
    pub fn subdir(&self, name: &str, user: &OsUser) -> Result<PathBuf, DirError> {
        let path = self.path.join(name);
        let made = fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
            .and_then(|()| user.own(&path));
        made.map(|()| path.clone()).map_err(|source| DirError { path, source })
    }

    /// Writes a file inside that belongs to `user` and that only this user can read.
    pub fn file(&self, name: &str, content: &str, user: &OsUser) -> Result<PathBuf, DirError> {
        let path = self.path.join(name);
        let written = fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| user.own(&path));
        written.map(|()| path.clone()).map_err(|source| DirError { path, source })
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("PGBATON_KEEP").is_none() {
            // Losing it is right: a drop cannot fail, and a test run reports every file that is left.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_directory_belongs_to_its_user_and_goes_with_its_content() {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("dirs", &user).unwrap();
        let data = directory.subdir("data", &user).unwrap();
        let file = directory.file("secret", "x", &user).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().uid(), user.uid);
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }
}
