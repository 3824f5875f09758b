//! What must be right before the agent begins. Each mistake is said once, with what to do about it.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use pgbaton_config::{HostPort, LoadError, LocalConfig};
use pgbaton_guard::client::ClientError;
use pgbaton_postgres::{DataDirError, FileError, InstallationError, Program, ServerSpec, inspect, write_passfile};
use pgbaton_store_embedded::OpenError;
use pgbaton_store_etcd::OptionsError;
use pgbaton_sys::lock::{FileLock, LockError};

use crate::connect::ConnectError;
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
    #[error(
        "the passwords cannot be written for PostgreSQL's programs: correct postgresql.pgpass, or its directory's owner and mode"
    )]
    Passfile(#[source] FileError),
    #[error(
        "the store's directory {} cannot be used: correct its owner and mode, or correct raft.data_dir", path.display()
    )]
    StoreDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another agent has the store in {} open: stop it first, or correct raft.data_dir", .0.display())]
    SecondStore(PathBuf),
    #[error(transparent)]
    Store(OpenError),
    #[error("the section etcd3 cannot be used: correct it")]
    Etcd(#[source] OptionsError),
    #[error("raft.{key}: {} cannot be read: correct it, or the file's owner and mode", path.display())]
    Certificates {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent cannot {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl From<ConnectError> for StartError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Embedded(error) => error.into(),
            ConnectError::Etcd(error) => Self::Etcd(error),
            ConnectError::Certificates { key, path, source } => Self::Certificates { key, path, source },
        }
    }
}

impl From<OpenError> for StartError {
    /// What an operator can correct is said in the words of the configuration, which the store does not know.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Listen { address, source } => {
                let (what, key) = ("the other members of the store", "raft.bind_addr or raft.self_addr");
                Self::Port { what, key, address, source }
            }
            OpenError::Directory { path, source } => Self::StoreDir { path, source },
            OpenError::Lock { path, source: LockError::Held { .. } } => Self::SecondStore(path),
            OpenError::Lock { path, source: LockError::Io { source, .. } } => Self::StoreDir { path, source },
            other => Self::Store(other),
        }
    }
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

/// The programs are there, and the data directory and the passfile can be used. A program that is missed only when a primary is lost is
/// missed too late.
pub(crate) async fn check_server(spec: &ServerSpec, use_pg_rewind: bool) -> Result<(), StartError> {
    let version = spec.installation.version().await?;
    tracing::info!(%version, "PostgreSQL");
    spec.installation.require(&[Program::Initdb, Program::BaseBackup])?;
    if use_pg_rewind {
        spec.installation.require(&[Program::Rewind])?;
    }
    if let Err(error @ (DataDirError::NotWritable(_) | DataDirError::NotADirectory(_))) = inspect(&spec.data_dir) {
        return Err(error.into());
    }
    write_passfile(spec).map(drop).map_err(StartError::Passfile)
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
