//! What is in the data directory, and moving a bad one aside.
//!
//! Nothing here deletes data that may be the only copy: a directory that is in the way is renamed into quarantine,
//! and only the caller, who knows that a newer good copy runs, may have old generations removed.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode};

use crate::file::{read_if_exists, remove_if_exists, replace_if_changed, sync_dir, sync_parent};
use crate::{ControlFile, ControlFileError, FileError};

/// The marker of an unfinished copy.
const INCOMPLETE: &str = "pgbaton.incomplete";
/// The marker of an unfinished rewind. `pg_rewind` removes every file, directory and link of the target that the source
/// does not have, so that only a special file stays until we remove it.
const REWINDING: &str = "pgbaton.rewinding";
/// Where a new copy is made, inside the data directory, before it is moved into place.
const STAGING: &str = "pgbaton.staging";
/// Begins the suffix of a quarantined directory.
const FAILED: &str = "failed-";
/// Entries named in a message about a directory that is not a database.
const NAMED_MAX: usize = 5;

/// What a data directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirState {
    /// It does not exist.
    Missing,
    /// It has nothing but `lost+found` or quarantined directories.
    Empty,
    /// It has something else than a database: nothing may be done to it.
    NotADatabase {
        /// Some of what is there.
        entries: Vec<String>,
    },
    /// An operation on it did not finish: it must not be started.
    Incomplete {
        /// The operation.
        operation: Operation,
    },
    /// A database cluster.
    Database {
        /// From `PG_VERSION`.
        major: u32,
        /// From `global/pg_control`.
        control: Box<ControlFile>,
    },
}

/// An operation that leaves the directory unusable until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new database cluster.
    Initdb,
    /// A copy of another server.
    BaseBackup,
    /// Going back to another server's history.
    Rewind,
}

impl Operation {
    /// Its name in messages and in the marker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initdb => "initdb",
            Self::BaseBackup => "base backup",
            Self::Rewind => "rewind",
        }
    }
}

/// Why the directory cannot be judged or moved.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be written to.
    #[error("data directory {} cannot be written by this user: correct its owner and mode", .0.display())]
    NotWritable(PathBuf),
    /// It is no directory.
    #[error("{} is not a directory: correct postgresql.data_dir", .0.display())]
    NotADirectory(PathBuf),
    /// `PG_VERSION` is there, but is no version.
    #[error("{} has {text:?} instead of a major version", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What is in it.
        text: String,
    },
    /// It looks like a database without a readable control file.
    #[error("{} has a PG_VERSION but no usable control file", path.display())]
    Control {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ControlFileError,
    },
    /// Special file could not be made.
    #[error("cannot mark {} as being rewound", path.display())]
    Mark {
        /// The marker.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Looks at a data directory.
pub fn inspect(data_dir: &Path) -> Result<DataDirState, DataDirError> {
    match fs::metadata(data_dir) {
        Ok(metadata) if !metadata.is_dir() => return Err(DataDirError::NotADirectory(data_dir.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_creatable(data_dir)?;
            return Ok(DataDirState::Missing);
        }
        Err(error) => return Err(FileError::at("look at", data_dir)(error).into()),
    }
    check_writable(data_dir)?;
    if let Some(operation) = incomplete(data_dir)? {
        return Ok(DataDirState::Incomplete { operation });
    }
    let version_file = data_dir.join("PG_VERSION");
    if let Some(text) = read_if_exists(&version_file)? {
        let major = text.trim().parse().map_err(|_| DataDirError::Version { path: version_file, text })?;
        let control = ControlFile::read(data_dir)
            .map_err(|source| DataDirError::Control { path: data_dir.to_owned(), source })?;
        return Ok(DataDirState::Database { major, control: Box::new(control) });
    }
    let mut entries: Vec<_> = names(data_dir)?.into_iter().filter(|name| !is_foreign(name)).collect();
    if entries.is_empty() {
        return Ok(DataDirState::Empty);
    }
    entries.truncate(NAMED_MAX);
    Ok(DataDirState::NotADatabase { entries })
}

fn check_writable(dir: &Path) -> Result<(), DataDirError> {
    rustix::fs::accessat(CWD, dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| DataDirError::NotWritable(dir.to_owned()))
}

/// The nearest existing ancestor must be writable.
fn check_creatable(dir: &Path) -> Result<(), DataDirError> {
    match dir.ancestors().skip(1).find(|ancestor| ancestor.exists()) {
        Some(ancestor) => check_writable(ancestor),
        None => Ok(()),
    }
}

/// What may be in an empty data directory: of a file system's root, or put there by [`quarantine`].
fn is_foreign(name: &str) -> bool {
    name == "lost+found" || name.starts_with(&format!("pgbaton.{FAILED}"))
}

fn names(dir: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(FileError::at("list", dir))? {
        let entry = entry.map_err(FileError::at("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The operation that did not finish, if any.
fn incomplete(data_dir: &Path) -> Result<Option<Operation>, FileError> {
    if data_dir.join(REWINDING).symlink_metadata().is_ok() {
        return Ok(Some(Operation::Rewind));
    }
    let text = read_if_exists(&data_dir.join(INCOMPLETE))?;
    Ok(text.map(|text| if text.contains("initdb") { Operation::Initdb } else { Operation::BaseBackup }))
}

/// Marks the directory as unusable, durably; makes it when it is missing.
pub(crate) fn begin(data_dir: &Path, operation: Operation) -> Result<(), DataDirError> {
    if operation == Operation::Rewind {
        let path = data_dir.join(REWINDING);
        match rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(DataDirError::Mark { path, source: error.into() }),
        }
        return Ok(sync_dir(data_dir)?);
    }
    create(data_dir)?;
    let text = format!("# pgbaton: {} in progress; this directory is not usable\n", operation.name());
    replace_if_changed(&data_dir.join(INCOMPLETE), &text, 0o600)?;
    Ok(())
}

/// Removes the mark, durably. Everything that the operation wrote must be durable before.
pub(crate) fn finish(data_dir: &Path) -> Result<(), FileError> {
    remove_if_exists(&data_dir.join(INCOMPLETE))?;
    remove_if_exists(&data_dir.join(REWINDING))?;
    Ok(())
}

/// A directory with mode 0700, as the server wants it.
fn create(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(FileError::at("create", parent))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_parent(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(FileError::at("set the mode of", dir))
        }
        Err(error) => Err(FileError::at("create", dir)(error)),
    }
}

/// Removes what an unfinished new copy left. The directory was empty when that began, and what is there was never
/// started.
pub(crate) fn clear_unfinished(data_dir: &Path) -> Result<(), FileError> {
    for name in names(data_dir)?.into_iter().filter(|name| !is_foreign(name) && name != INCOMPLETE) {
        let path = data_dir.join(&name);
        let is_dir = path.symlink_metadata().map_err(FileError::at("look at", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(FileError::at("remove", &path))?;
    }
    sync_dir(data_dir)
}

/// Where to make a new copy, after [`begin`]. A rest of an earlier attempt, which never was a database, is removed.
pub(crate) fn staging(data_dir: &Path) -> Result<PathBuf, FileError> {
    let staging = data_dir.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(FileError::at("remove", &staging))?;
    }
    create(&staging)?;
    Ok(staging)
}

/// Moves a finished copy into place and ends the operation.
pub(crate) fn install_staging(data_dir: &Path) -> Result<(), FileError> {
    let staging = data_dir.join(STAGING);
    for name in names(&staging)? {
        let path = staging.join(&name);
        fs::rename(&path, data_dir.join(&name)).map_err(FileError::at("move", &path))?;
    }
    fs::remove_dir(&staging).map_err(FileError::at("remove", &staging))?;
    sync_dir(data_dir)?;
    finish(data_dir)
}

/// Moves the data aside and says where it went: `<data_dir>.failed-<UTC time>`, or, where the directory itself cannot
/// be renamed (a mount point, or its parent is another user's), its contents into `pgbaton.failed-<UTC time>` inside
/// it. The targets of tablespaces and of a linked `pg_wal` are renamed likewise, so that a new copy finds their
/// places free.
pub fn quarantine(data_dir: &Path) -> Result<PathBuf, DataDirError> {
    let stamp = format!("{FAILED}{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ"));
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{stamp}"));
    let sibling = data_dir.with_file_name(name);
    let place = match fs::rename(data_dir, &sibling) {
        Ok(()) => {
            sync_parent(data_dir)?;
            sibling
        }
        Err(error) if cannot_rename(&error) => move_contents(data_dir, &format!("pgbaton.{stamp}"))?,
        Err(error) => return Err(FileError::at("rename", data_dir)(error).into()),
    };
    move_link_targets(&place, &stamp)?;
    Ok(place)
}

fn cannot_rename(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

fn move_contents(data_dir: &Path, into: &str) -> Result<PathBuf, FileError> {
    let place = data_dir.join(into);
    create(&place)?;
    for name in names(data_dir)?.into_iter().filter(|name| !is_foreign(name)) {
        let path = data_dir.join(&name);
        fs::rename(&path, place.join(&name)).map_err(FileError::at("move", &path))?;
    }
    sync_dir(&place)?;
    sync_dir(data_dir)?;
    Ok(place)
}

fn move_link_targets(place: &Path, stamp: &str) -> Result<(), FileError> {
    let tablespaces = place.join("pg_tblspc");
    let mut links = vec![place.join("pg_wal")];
    if tablespaces.is_dir() {
        links.extend(names(&tablespaces)?.iter().map(|name| tablespaces.join(name)));
    }
    for link in links {
        let Ok(target) = fs::read_link(&link) else { continue };
        let mut moved = target.clone().into_os_string();
        moved.push(format!(".{stamp}"));
        let moved = PathBuf::from(moved);
        match fs::rename(&target, &moved) {
            Ok(()) => {
                fs::remove_file(&link).map_err(FileError::at("remove", &link))?;
                symlink(&moved, &link).map_err(FileError::at("link", &link))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::at("rename", &target)(error)),
        }
    }
    Ok(())
}

/// The quarantined directories, oldest first.
pub fn quarantined(data_dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    let base = data_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (dir, prefix) in
        [(data_dir.parent(), format!("{base}.{FAILED}")), (Some(data_dir), format!("pgbaton.{FAILED}"))]
    {
        let Some(dir) = dir.filter(|dir| dir.is_dir()) else { continue };
        found.extend(names(dir)?.into_iter().filter(|name| name.starts_with(&prefix)).map(|name| dir.join(name)));
    }
    // The times sort as text; the two kinds of names begin differently.
    found.sort_by_key(|path| path.to_string_lossy().rsplit(FAILED).next().map(str::to_owned));
    Ok(found)
}

/// Says that whoever asks for deletion saw a newer good copy: the server in the data directory runs and has replayed
/// beyond what the quarantined copies hold, or leads.
#[derive(Debug, Clone, Copy)]
pub struct NewerGoodCopy {
    /// Where that copy is, by its control file: it must be this directory's.
    pub system_id: pgbaton_types::SystemId,
}

/// Deletes quarantined directories but the newest `keep`; gives those that it deleted. Does nothing unless the data
/// directory itself holds a complete database of the cluster that the evidence names.
pub fn prune_quarantine(
    data_dir: &Path,
    keep: NonZeroUsize,
    evidence: NewerGoodCopy,
) -> Result<Vec<PathBuf>, DataDirError> {
    match inspect(data_dir)? {
        DataDirState::Database { control, .. } if control.system_id == evidence.system_id => {}
        _ => return Ok(Vec::new()),
    }
    let mut old = quarantined(data_dir)?;
    old.truncate(old.len().saturating_sub(keep.get()));
    for path in &old {
        fs::remove_dir_all(path).map_err(FileError::at("remove", path))?;
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_without_a_database_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        assert_eq!(inspect(&dir).unwrap(), DataDirState::Missing);
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        assert_eq!(inspect(&dir).unwrap(), DataDirState::Empty);
        fs::write(dir.join("thesis.txt"), "").unwrap();
        assert_eq!(
            inspect(&dir).unwrap(),
            DataDirState::NotADatabase { entries: vec!["lost+found".into(), "thesis.txt".into()].split_off(1) }
        );
        assert!(matches!(inspect(&dir.join("thesis.txt")), Err(DataDirError::NotADirectory(_))));
    }

    #[test]
    fn an_unfinished_operation_is_seen_until_it_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        for operation in [Operation::Initdb, Operation::BaseBackup, Operation::Rewind] {
            begin(&dir, operation).unwrap();
            begin(&dir, operation).unwrap();
            assert_eq!(inspect(&dir).unwrap(), DataDirState::Incomplete { operation });
            finish(&dir).unwrap();
            assert_eq!(inspect(&dir).unwrap(), DataDirState::Empty);
        }
    }

    #[test]
    fn quarantine_keeps_the_data_and_frees_the_place() {
        let root = tempfile::tempdir().unwrap();
        let (dir, space) = (root.path().join("data"), root.path().join("space"));
        fs::create_dir_all(dir.join("pg_tblspc")).unwrap();
        fs::create_dir(&space).unwrap();
        fs::write(space.join("row"), "42").unwrap();
        symlink(&space, dir.join("pg_tblspc/16400")).unwrap();
        let place = quarantine(&dir).unwrap();
        assert!(!dir.exists() && !space.exists());
        assert_eq!(fs::read_to_string(place.join("pg_tblspc/16400/row")).unwrap(), "42");
        assert_eq!(quarantined(&dir).unwrap(), [place]);
    }

    #[test]
    fn contents_are_moved_where_the_directory_cannot_be() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("PG_VERSION"), "15").unwrap();
        let place = move_contents(root.path(), "pgbaton.failed-20261121T010203.000000Z").unwrap();
        assert_eq!(fs::read_to_string(place.join("PG_VERSION")).unwrap(), "15");
        assert_eq!(inspect(root.path()).unwrap(), DataDirState::Empty);
        assert_eq!(quarantined(root.path()).unwrap(), [place]);
    }

    #[test]
    fn nothing_is_deleted_without_a_good_copy_in_place() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        fs::create_dir(&dir).unwrap();
        quarantine(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        quarantine(&dir).unwrap();
        let evidence = NewerGoodCopy { system_id: pgbaton_types::SystemId(1) };
        let keep = NonZeroUsize::MIN;
        assert_eq!(prune_quarantine(&dir, keep, evidence).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(quarantined(&dir).unwrap().len(), 2);
    }
}
