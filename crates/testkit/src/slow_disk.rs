//! A disk whose syncs take as long as a test wants: a small library that the program loads before its own.
//!
//! What reaches the disk is what always does; only the program waits longer for it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The library's source. It is built by the C compiler that also links every Rust program.
const SOURCE: &str = include_str!("slow_disk.c");

/// Why there is no slow disk.
#[derive(Debug, thiserror::Error)]
pub enum SlowDiskError {
    /// A file of it cannot be written, or the compiler not started.
    #[error("cannot make the slow disk in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The compiler refused the source.
    #[error("cc cannot build the slow disk: {0}")]
    Compiler(String),
}

/// The disk of one program.
#[derive(Debug)]
pub struct SlowDisk {
    library: PathBuf,
    delay: PathBuf,
}

impl SlowDisk {
    /// Builds it in a directory that the program can read; no delay yet.
    pub fn new(directory: &Path, name: &str) -> Result<Self, SlowDiskError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            |source| SlowDiskError::File { path, source }
        };
        let (source, library) = (directory.join(format!("{name}.c")), directory.join(format!("{name}.so")));
        std::fs::write(&source, SOURCE).map_err(file(&source))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let built = compiler.output().map_err(file(&library))?;
        if !built.status.success() {
            return Err(SlowDiskError::Compiler(String::from_utf8_lossy(&built.stderr).into_owned()));
        }
        let disk = Self { library, delay: directory.join(format!("{name}.ms")) };
        disk.set_delay(Duration::ZERO)?;
        Ok(disk)
    }

    /// What the program needs in its environment.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("PGBATON_SLOW_DISK", self.delay.display().to_string())]
    }

    /// How much longer each sync takes, from the next one on; in whole milliseconds.
    pub fn set_delay(&self, delay: Duration) -> Result<(), SlowDiskError> {
        // By another file's rename, so that nobody ever reads half a number.
        let next = self.delay.with_extension("next");
        std::fs::write(&next, delay.as_millis().to_string())
            .and_then(|()| std::fs::rename(&next, &self.delay))
            .map_err(|source| SlowDiskError::File { path: self.delay.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirs::TempDir;
    use crate::user::OsUser;

    #[test]
    fn a_sync_takes_as_long_as_it_is_told_to() {
        let directory = TempDir::new("slow", &OsUser::for_servers().unwrap()).unwrap();
        let disk = SlowDisk::new(directory.path(), "disk").unwrap();
        let synced = |name: &str| {
            let begin = crate::clock::now();
            let file = directory.path().join(name);
            // `sync -d FILE` (coreutils) calls fdatasync.
            std::fs::write(&file, "x").unwrap();
            let done = Command::new("sync").arg("-d").arg(&file).envs(disk.environment()).status().unwrap();
            assert!(done.success());
            crate::clock::now().since(begin)
        };
        disk.set_delay(Duration::from_millis(700)).unwrap();
        assert!(synced("a") >= Duration::from_millis(700));
    }
}
