//! Programs from a newer Debian than the one that runs, unpacked into a directory of their own and never installed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who signs Debian's releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const MIRROR: &str = "http://deb.debian.org/debian";

/// Why a package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A file of it cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program cannot be started; Debian's packages apt and dpkg have them.
    #[error("cannot run {program}")]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it wrote.
        message: String,
    },
    /// The download brought no package.
    #[error("no package {package} came into {path}")]
    Missing {
        /// Of this name.
        package: String,
        /// Where it was expected.
        path: PathBuf,
    },
}

/// Unpacks a package of that release of Debian below `parent`, unless that was done before; where its files are. Two that want it at once wait
/// for each other.
///
/// # Errors
/// When Debian's mirror cannot be reached or does not have the package.
pub fn unpack(parent: &Path, release: &str, package: &str) -> Result<PathBuf, UnpackError> {
    let name = format!("{release}-{package}");
    fs::create_dir_all(parent).map_err(file(parent))?;
    let lock_path = parent.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(file(&lock_path))?;
    lock.lock().map_err(file(&lock_path))?;
    let (files, unpacked) = (parent.join(&name), parent.join(format!("{name}.new")));
    if files.exists() {
        return Ok(files);
    }
    // Not below the directory of a user that apt's own user may not enter.
    let work = tempfile::Builder::new().prefix("pgbaton-apt").tempdir().map_err(file(parent))?;
    let work = work.path();
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory)).map_err(file(work))?;
    }
    let sources = work.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {MIRROR} {release} main\n")).map_err(file(&sources))?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        let options = [
            ("Dir::Etc::SourceList", sources.clone()),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", work.join("lists")),
            ("Dir::State::Status", PathBuf::from("/dev/null")),
            ("Dir::Cache", work.join("cache")),
        ];
        for (option, path) in options {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        // What is downloaded is checked against the release's signature, whoever downloads it.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "--quiet"]).current_dir(work);
        command
    };
    run("apt-get", apt_get().arg("update"))?;
    run("apt-get", apt_get().args(["download", package]))?;
    let archive = archive(work).map_err(file(work))?;
    let archive = archive.ok_or_else(|| UnpackError::Missing { package: package.to_owned(), path: work.to_owned() })?;
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).map_err(file(&unpacked))?;
    }
    run("dpkg-deb", Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&unpacked))?;
    fs::rename(&unpacked, &files).map_err(file(&files))?;
    Ok(files)
}

fn archive(directory: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn file(path: &Path) -> impl Fn(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::File { path: path.clone(), source }
}

fn run(program: &'static str, command: &mut Command) -> Result<(), UnpackError> {
    let output = command.output().map_err(|source| UnpackError::Start { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(UnpackError::Failed { program, message })
}
