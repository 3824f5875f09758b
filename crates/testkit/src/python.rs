//! Programs from the Python package index, each set in a virtual environment of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's.
const PYTHON: &str = "/usr/bin/python3";

/// Why a virtual environment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VenvError {
    /// A file of it cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program cannot be started; the packages python3 and python3-venv have them.
    #[error("cannot run {program}")]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// Which.
        program: PathBuf,
        /// What it wrote.
        message: String,
    },
}

/// A virtual environment.
#[derive(Debug, Clone)]
pub struct Venv {
    programs: PathBuf,
}

impl Venv {
    /// Installs these packages into an environment of this name below `parent`, unless that was done before. Two that want it at once wait for
    /// each other.
    ///
    /// # Errors
    /// When there is no Python, or the index does not have the packages.
    pub fn install(parent: &Path, name: &str, packages: &[&str]) -> Result<Self, VenvError> {
        fs::create_dir_all(parent).map_err(file(parent))?;
        let lock_path = parent.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(file(&lock_path))?;
        lock.lock().map_err(file(&lock_path))?;
        let environment = parent.join(name);
        let (done, programs) = (environment.join("installed"), environment.join("bin"));
        let wanted = packages.join("\n");
        if fs::read_to_string(&done).ok().as_deref() != Some(&wanted) {
            run(Path::new(PYTHON), &["-m", "venv", "--clear", &environment.display().to_string()])?;
            run(&programs.join("pip"), &[&["install", "--quiet"], packages].concat())?;
            fs::write(&done, wanted).map_err(file(&done))?;
        }
        Ok(Self { programs })
    }

    /// A program in it.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

fn file(path: &Path) -> impl Fn(io::Error) -> VenvError {
    let path = path.to_owned();
    move |source| VenvError::File { path: path.clone(), source }
}

fn run(program: &Path, arguments: &[&str]) -> Result<(), VenvError> {
    let started = Command::new(program).args(arguments).output();
    let output = started.map_err(|source| VenvError::Start { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(VenvError::Failed { program: program.to_owned(), message })
}
