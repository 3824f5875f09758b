use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file operations that the log needs, in one flat directory. What is not synced may be lost, or written in
/// part, when the host stops: of a file until [`DiskFile::sync`], of names until [`Disk::sync_directory`].
pub(crate) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a new file (replacing one of this name) of `size` zero bytes, with all its blocks allocated and written, and
    /// syncs it; not its name.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
}

/// How many zero bytes are written at a time.
const ZEROS: usize = 256 * 1024;

/// A directory of the file system.
#[derive(Debug)]
pub(crate) struct RealDisk {
    directory: PathBuf,
}

impl RealDisk {
    /// The directory must exist.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The path belongs into every message.
    fn named(&self, name: &str) -> impl FnOnce(io::Error) -> io::Error {
        let path = self.path(name);
        move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    }
}

impl Disk for RealDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(self.named(""))? {
            names.extend(entry.map_err(self.named(""))?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name)).map_err(self.named(name))?;
        Ok(Arc::new(RealFile { file, path: self.path(name) }))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path(name));
        let file = RealFile { file: file.map_err(self.named(name))?, path: self.path(name) };
        zero(&file, 0, size)?;
        file.sync()?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to)).map_err(self.named(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)).map_err(self.named(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(self.named(""))
    }
}

/// Overwrites a range with zeros. Written blocks, not reserved ones: a later sync then has no metadata to write.
pub(crate) fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut offset = from;
    while offset < to {
        let length = usize::try_from(to - offset).unwrap_or(ZEROS).min(ZEROS);
        file.write_at(offset, &zeros[..length])?;
        offset += length as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    fn named(&self) -> impl FnOnce(io::Error) -> io::Error {
        let path = self.path.clone();
        move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(self.named())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(self.named())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(self.named())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(self.named())
    }
}
