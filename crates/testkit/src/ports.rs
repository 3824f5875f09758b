//! Free ports, held so that test runs at the same time never take the same one.
//!
//! Asking the kernel for a free port and giving it back leaves a gap in which somebody else takes it. So every port is
//! held by a lock on a file, for as long as its [`PortLease`] lives: by any user, in any run on this machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where the lock files are. The same for all runs and users, so it does not follow `TMPDIR`.
const DIRECTORY: &str = "/tmp/pgbaton-ports";

/// The ports that are given out: below the range that the kernel takes for outgoing connections (from 32768, `ip(7)`),
/// above what common services use.
const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// Why no port or subnet could be held.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The directory or a lock file in it cannot be used.
    #[error("cannot use lock file {path}")]
    Lock {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everything is held by somebody else.
    #[error("all {count} {what} are in use")]
    Exhausted {
        /// What was wanted, in the plural.
        what: &'static str,
        /// How many there are.
        count: u16,
    },
}

/// A port on which nothing listens and which no other run takes while this lives.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: Lock,
}

impl PortLease {
    /// Holds a port that is free on all addresses now.
    pub fn hold() -> Result<Self, PortError> {
        // Runs begin at different places, so that they seldom try each other's ports.
        let offset = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap_or(0);
        for step in 0..COUNT {
            let port = FIRST + (offset + step) % COUNT;
            if let Some(lock) = Lock::try_hold(&port.to_string())?
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            {
                return Ok(Self { port, _lock: lock });
            }
        }
        Err(PortError::Exhausted { what: "ports", count: COUNT })
    }

    /// Holds several ports at once.
    pub fn hold_many(count: usize) -> Result<Vec<Self>, PortError> {
        (0..count).map(|_| Self::hold()).collect()
    }

    /// The port's number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A name held by a lock on a file. The kernel gives it free with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Holds the name; none if somebody else does.
    pub(crate) fn try_hold(name: &str) -> Result<Option<Self>, PortError> {
        prepare()?;
        let path = Path::new(DIRECTORY).join(name);
        let cannot = |source| PortError::Lock { path: path.clone(), source };
        let file = match open(&path) {
            Ok(file) => file,
            // Made by another user this very moment and not yet open to us: it is theirs.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(cannot(error.into())),
        }
    }
}

/// Opens a lock file of whichever user. An existing one is opened without the wish to create it: in a directory that
/// all may write to, Linux refuses that wish even to root (`fs.protected_regular`, proc(5)).
fn open(path: &Path) -> io::Result<File> {
    let existing = OpenOptions::new().read(true).open(path);
    if !existing.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return existing;
    }
    match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(fs::Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new().read(true).open(path),
        Err(error) => Err(error),
    }
}

/// Makes the directory, open to all users like `/tmp` itself.
fn prepare() -> Result<(), PortError> {
    let cannot = |source| PortError::Lock { path: DIRECTORY.into(), source };
    match fs::create_dir(DIRECTORY) {
        Ok(()) => fs::set_permissions(DIRECTORY, fs::Permissions::from_mode(0o1777)).map_err(cannot),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(cannot(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_not_given_out_again_until_it_is_dropped() {
        let held = PortLease::hold_many(20).unwrap();
        let mut ports: Vec<u16> = held.iter().map(PortLease::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| (FIRST..FIRST + COUNT).contains(port)));

        let name = held[0].port().to_string();
        assert!(Lock::try_hold(&name).unwrap().is_none(), "port {name} is held");
        drop(held);
        assert!(Lock::try_hold(&name).unwrap().is_some(), "port {name} is free again");
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_passed_over() {
        let lease = PortLease::hold().unwrap();
        let port = lease.port();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(lease);
        // The same process tries the same ports in the same order.
        assert_ne!(PortLease::hold().unwrap().port(), port);
    }
}
