//! Executables of a test's own.

use std::io;
use std::path::Path;
use std::process::Command;

/// Puts a copy of an executable in place, for everybody to run: the build's own directory may be closed to the servers' user.
///
/// Another process writes it. A file that this one has open for writing is open in each child that another thread is just about to start,
/// and Linux executes no file that is open for writing (`ETXTBSY`, execve(2)).
pub fn install(from: &Path, to: &Path) -> io::Result<()> {
    let done = Command::new("install").args(["-m", "755", "--"]).args([from, to]).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}
