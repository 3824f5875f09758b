//! What must be right before the agent begins. Each mistake is said once, with what to do about it.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use pgbaton_config::{HostPort, LoadError, LocalConfig};
use pgbaton_guard::client::ClientError;
use pgbaton_postgres::{DataDirError, Installation, InstallationError, inspect};
use pgbaton_store_embedded::OpenError;
use pgbaton_sys::lock::{FileLock, LockError};

use crate::spec::beside;
use crate::state::StateError;

/// Why the agent does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Config(#[from] LoadError),
    #[error("the agent was not started by its guard: run `pgbaton agent CONFIG`")]
    Guard(#[source] ClientError),
    #[error("another agent (process {pid}) manages the data directory {}: stop it first, or correct postgresql.data_dir", data_dir.display())]
    SecondAgent { data_dir: PathBuf, pid: String },
    #[error("the directory {} beside the data directory cannot be used: create it, or correct its owner and mode", path.display())]
    Beside {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot listen on {address} for {what}: stop what uses it, or change {key}")]
    Port {
        what: &'static str,
        key: &'static str,
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("the agent cannot {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Keeps a second agent from the same data directory, for as long as it lives.
pub(crate) fn lock_data_dir(data_dir: &Path) -> Result<FileLock, StartError> {
    let path = beside(data_dir, "lock");
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| StartError::Beside { path: parent.to_owned(), source })?;
    }
    match FileLock::acquire(&path) {
        Ok(lock) => {
            let note = lock.file().set_len(0).and_then(|()| writeln!(lock.file(), "{}", std::process::id()));
            note.map_err(|source| StartError::Beside { path: path.clone(), source })?;
            Ok(lock)
        }
        Err(LockError::Held { path }) => {
            let pid = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            Err(StartError::SecondAgent { data_dir: data_dir.to_owned(), pid })
        }
        Err(LockError::Io { path, source }) => Err(StartError::Beside { path, source }),
    }
}

/// The programs are there, and the data directory can be used.
pub(crate) async fn check_server(installation: &Installation, data_dir: &Path) -> Result<(), StartError> {
    let version = installation.version().await?;
    tracing::info!(%version, "PostgreSQL");
    if let Err(error @ (DataDirError::NotWritable(_) | DataDirError::NotADirectory(_))) = inspect(data_dir) {
        return Err(error.into());
    }
    Ok(())
}

/// Nobody else listens where the server shall, when no server of ours runs.
pub(crate) fn check_server_port(local: &LocalConfig) -> Result<(), StartError> {
    let listen = &local.postgresql.listen;
    for host in &listen.hosts {
        let host = if host == "*" { "0.0.0.0" } else { host };
        let address = HostPort { host: host.to_owned(), port: listen.port }.to_string();
        if let Err(source) = TcpListener::bind(&address) {
            // Others, such as a name that does not resolve yet, the server will tell about.
            if source.kind() == io::ErrorKind::AddrInUse {
                let (what, key) = ("PostgreSQL", "postgresql.listen");
                return Err(StartError::Port { what, key, address, source });
            }
        }
    }
    Ok(())
}

/// The socket of the REST API.
pub(crate) fn bind_rest(local: &LocalConfig) -> Result<TcpListener, StartError> {
    let listen = &local.restapi.listen;
    let host = match listen.hosts.first().map(String::as_str) {
        Some("*") | None => "0.0.0.0",
        Some(host) => host,
    };
    let address = HostPort { host: host.to_owned(), port: listen.port }.to_string();
    let bound = TcpListener::bind(&address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| StartError::Port { what: "the REST API", key: "restapi.listen", address, source })
}
