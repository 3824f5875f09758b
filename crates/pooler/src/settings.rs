use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::Config;

/// The database by which PgBouncer's console is reached.
const CONSOLE: &str = "pgbouncer";

/// One PgBouncer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// By what the cluster knows it.
    pub name: String,
    /// How its console is reached.
    pub console: Address,
    /// Its databases that lead to the primary: these are paused.
    pub writes: Vec<String>,
    /// Its databases that lead to standbys.
    pub reads: Vec<String>,
    /// How long a pause may take to begin: as long as transactions run.
    pub pause_within: Duration,
    /// The longest that a pause may last.
    pub hold_within: Duration,
    /// How long a connection to a server that is not the one any more may go on; then all clients of its database are cut.
    pub kill_within: Duration,
    /// Where it is remembered what is paused.
    pub kept: PathBuf,
}

/// How a console is reached, by a user of `admin_users`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// A connection string as libpq has it, such as `host=/var/run/postgresql port=6432 user=pgbouncer`.
    pub text: String,
    /// The user's password.
    pub password: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Address").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Address {
    /// What the client of the protocol wants.
    ///
    /// # Errors
    /// When the text is no connection string.
    pub fn config(&self) -> Result<Config, tokio_postgres::Error> {
        let mut config: Config = self.text.parse()?;
        config.dbname(CONSOLE);
        if let Some(password) = &self.password {
            config.password(password);
        }
        Ok(config)
    }
}

impl Settings {
    /// All databases that follow the cluster.
    pub(crate) fn databases(&self) -> impl Iterator<Item = &String> {
        self.writes.iter().chain(&self.reads)
    }
}
