//! The processes that send WAL, and which of them keep a server from shutting down.

use std::fs;
use std::io;
use std::path::Path;

use pgbaton_sys::{Pid, proctree, sockets};

use crate::{ControlFile, ControlFileError};

/// Why it is not known what holds a shutdown up.
#[derive(Debug, thiserror::Error)]
pub enum SendersError {
    /// The processes cannot be looked at.
    #[error("cannot look at the processes that send WAL")]
    Processes(#[source] io::Error),
    /// The control file cannot be read.
    #[error("cannot see whether the server is shut down")]
    Control(#[from] ControlFileError),
}

/// The processes that send WAL and keep the server on this data directory, which was asked to stop, from doing so.
///
/// Before its last checkpoint a server waits until each has handed to the kernel what it had begun to send, which one whose standby
/// takes nothing does not. After that it waits until each standby has confirmed the rest. Both end by themselves only after
/// `wal_sender_timeout` (PostgreSQL documentation, "Shutting Down the Server").
pub fn held_up_senders(data_dir: &Path) -> Result<Vec<Pid>, SendersError> {
    let is_shut_down = ControlFile::read(data_dir)?.state.is_clean();
    let mut held_up = Vec::new();
    for pid in proctree::with_working_directory(data_dir).map_err(SendersError::Processes)? {
        if sends_wal(pid) && (is_shut_down || is_stuck(pid)?) {
            held_up.push(pid);
        }
    }
    Ok(held_up)
}

/// By its title: `postgres: walsender ...` or `postgres: <cluster_name>: walsender ...`.
fn sends_wal(pid: Pid) -> bool {
    let title = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    title.starts_with("postgres: ") && title.split(": ").any(|part| part.starts_with("walsender "))
}

fn is_stuck(pid: Pid) -> Result<bool, SendersError> {
    match sockets::is_stuck(pid) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        stuck => stuck.map_err(SendersError::Processes),
    }
}
