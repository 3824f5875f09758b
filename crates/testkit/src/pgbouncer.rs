//! A `PgBouncer` of Debian's package, on a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::dirs::{DirError, TempDir};
use crate::ports::{PortError, PortLease};
use crate::process::{Launch, Process, ProcessError};
use crate::user::{OsUser, UserError};

/// Where Debian's package has it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// The variable that names another one.
const PROGRAM_VARIABLE: &str = "PGBATON_TEST_PGBOUNCER";
/// Who may use its console, without a password.
pub const ADMIN: &str = "admin";
/// Who may use its databases, without a password.
pub const USER: &str = "app";

/// Why there is no `PgBouncer`.
#[derive(Debug, thiserror::Error)]
pub enum PgBouncerError {
    /// No user to run it as.
    #[error("no user for PgBouncer")]
    User(#[from] UserError),
    /// No port.
    #[error("no port for PgBouncer")]
    Port(#[from] PortError),
    /// No directory.
    #[error("no directory for PgBouncer")]
    Directory(#[from] DirError),
    /// It did not start.
    #[error("PgBouncer")]
    Process(#[from] ProcessError),
}

/// A running `PgBouncer` in transaction mode that includes a file of databases.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    port: PortLease,
    directory: TempDir,
}

impl PgBouncer {
    /// Starts one with these lines below `[databases]`, and these more settings; whatever the file [`Self::included`] says is added.
    ///
    /// # Errors
    /// When it cannot be started; that it ends soon after is in its log.
    pub fn start(databases: &str, settings: &str) -> Result<Self, PgBouncerError> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new("pgbouncer", &user)?;
        let port = PortLease::hold_many(1)?.swap_remove(0);
        let path = directory.path().display();
        directory.file("databases.ini", "", &user)?;
        directory.file("users", &format!("\"{ADMIN}\" \"\"\n\"{USER}\" \"\"\n"), &user)?;
        let text = format!(
            "[databases]
{databases}
%include {path}/databases.ini
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {}
unix_socket_dir =
auth_type = trust
auth_file = {path}/users
admin_users = {ADMIN}
ignore_startup_parameters = extra_float_digits
pool_mode = transaction
max_client_conn = 1000
{settings}
",
            port.port()
        );
        let config = directory.file("pgbouncer.ini", &text, &user)?.display().to_string();
        let program = std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| PROGRAM.into());
        let launch = Launch::new(program, directory.path().join("log")).args([config]);
        let process = Process::start(&launch.user(&user))?;
        Ok(Self { process, port, directory })
    }

    /// The file of databases that it includes; empty at first.
    pub fn included(&self) -> PathBuf {
        self.directory.path().join("databases.ini")
    }

    /// A directory that belongs to its user.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.port()))
    }

    /// A connection string for its console.
    pub fn console(&self) -> String {
        format!("host=127.0.0.1 port={} user={ADMIN}", self.port.port())
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
}
