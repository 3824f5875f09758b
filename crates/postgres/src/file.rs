//! Small file helpers with errors that name the file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried, such as "read".
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// A closure for `map_err`.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { operation, path, source }
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The file's text, or nothing when it does not exist.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::at("read", path)(error)),
    }
}

/// Replaces a file so that a crash at any instant leaves the old or the new content, unless it has the content
/// already. Says whether it wrote.
pub(crate) fn replace_if_changed(path: &Path, text: &str, mode: u32) -> Result<bool, FileError> {
    if read_if_exists(path)?.as_deref() == Some(text) {
        return Ok(false);
    }
    pgbaton_sys::durable::replace(path, text.as_bytes(), mode).map_err(|error| FileError {
        operation: error.step,
        path: error.path,
        source: error.source,
    })?;
    Ok(true)
}

/// Removes a file durably; says whether it was there.
pub(crate) fn remove_if_exists(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::at("remove", path)(error)),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync", path))
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), sync_dir)
}
