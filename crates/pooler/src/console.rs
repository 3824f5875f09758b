use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::settings::Address;

/// How long a console may take that has nothing to wait for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why a console did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// It cannot be reached.
    #[error("PgBouncer's console cannot be reached")]
    Connect(#[source] tokio_postgres::Error),
    /// It refuses the command, or has gone.
    #[error("PgBouncer's console refuses {command}")]
    Command {
        /// The command.
        command: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// It has not answered in time.
    #[error("PgBouncer's console has not answered {command} in {} ms", .within.as_millis())]
    Late {
        /// The command.
        command: String,
        /// The time that it had.
        within: Duration,
    },
    /// What it shows is not what PgBouncer 1.18 and newer show.
    #[error("PgBouncer's console shows no column {column} for {command}: is it older than 1.18?")]
    Column {
        /// The command.
        command: &'static str,
        /// The column.
        column: &'static str,
    },
}

/// One of PgBouncer's databases, by `SHOW DATABASES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) paused: bool,
}

/// Which connection to a server it is, by `SHOW SERVERS`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LinkId {
    pub(crate) database: String,
    /// What PgBouncer tells it by from all others that are open.
    pub(crate) ptr: String,
    /// To the second; tells it from those that had that before.
    pub(crate) connect_time: String,
}

/// A connection to a server, by `SHOW SERVERS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// It is to be closed as soon as nobody uses it.
    pub(crate) close_needed: bool,
}

/// A connection to a console.
pub(crate) struct Console {
    client: Client,
    /// It has not answered once: what comes next could be the answer to that.
    late: AtomicBool,
}

impl Console {
    pub(crate) async fn connect(address: &Address) -> Result<Self, ConsoleError> {
        let config = address.config().map_err(ConsoleError::Connect)?;
        let connected = timeout(ANSWER_WITHIN, config.connect(NoTls)).await;
        let late = |_| ConsoleError::Late { command: "the connection".to_owned(), within: ANSWER_WITHIN };
        let (client, connection) = connected.map_err(late)?.map_err(ConsoleError::Connect)?;
        // It ends with the client, and what ended it is seen by the next command.
        tokio::spawn(connection);
        Ok(Self { client, late: AtomicBool::new(false) })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.late.load(Ordering::Relaxed)
    }

    /// Returns when no server connection of the database is left.
    pub(crate) async fn pause(&self, database: &str, within: Duration) -> Result<(), ConsoleError> {
        self.command(&of_database("PAUSE", database), within).await.map(|_| ())
    }

    /// Lets a database go on; one that is not paused stays as it is.
    pub(crate) async fn resume(&self, database: &str) -> Result<(), ConsoleError> {
        let done = self.command(&of_database("RESUME", database), ANSWER_WITHIN).await.map(|_| ());
        if let Err(ConsoleError::Command { .. }) = &done {
            let paused = self.databases().await?.iter().any(|known| known.name == database && known.paused);
            return if paused { done } else { Ok(()) };
        }
        done
    }

    /// These commands one after the other, with nothing in between for clients to come in; all of them, whatever comes of one. The first error
    /// is the one that is told.
    pub(crate) async fn all(&self, commands: &[String]) -> Result<(), ConsoleError> {
        // Written at once: PgBouncer works off what it has received from one client before it looks at another one.
        let answers = join_all(commands.iter().map(|command| self.command(command, ANSWER_WITHIN))).await;
        answers.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }

    pub(crate) async fn databases(&self) -> Result<Vec<Database>, ConsoleError> {
        const COMMAND: &str = "SHOW DATABASES";
        let rows = self.command(COMMAND, ANSWER_WITHIN).await?;
        rows.iter()
            .map(|row| {
                Ok(Database {
                    name: column(row, COMMAND, "name")?.to_owned(),
                    paused: column(row, COMMAND, "paused")? == "1",
                })
            })
            .collect()
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, ConsoleError> {
        const COMMAND: &str = "SHOW SERVERS";
        let rows = self.command(COMMAND, ANSWER_WITHIN).await?;
        rows.iter()
            .map(|row| {
                let id = LinkId {
                    database: column(row, COMMAND, "database")?.to_owned(),
                    ptr: column(row, COMMAND, "ptr")?.to_owned(),
                    connect_time: column(row, COMMAND, "connect_time")?.to_owned(),
                };
                Ok(Link { id, close_needed: column(row, COMMAND, "close_needed")? == "1" })
            })
            .collect()
    }

    /// A setting's value now.
    pub(crate) async fn setting(&self, name: &str) -> Result<Option<String>, ConsoleError> {
        const COMMAND: &str = "SHOW CONFIG";
        let rows = self.command(COMMAND, ANSWER_WITHIN).await?;
        for row in &rows {
            if column(row, COMMAND, "key")? == name {
                return Ok(Some(column(row, COMMAND, "value")?.to_owned()));
            }
        }
        Ok(None)
    }

    async fn command(&self, command: &str, within: Duration) -> Result<Vec<SimpleQueryRow>, ConsoleError> {
        let answered = timeout(within, self.client.simple_query(command)).await;
        let late = |_| {
            self.late.store(true, Ordering::Relaxed);
            ConsoleError::Late { command: command.to_owned(), within }
        };
        let failed = |source| ConsoleError::Command { command: command.to_owned(), source };
        let messages = answered.map_err(late)?.map_err(failed)?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}

/// `RESUME`, `RECONNECT` or `KILL` of one database.
pub(crate) fn of_database(command: &str, database: &str) -> String {
    format!("{command} {}", quoted(database))
}

/// A name as the console reads it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn column<'a>(row: &'a SimpleQueryRow, command: &'static str, column: &'static str) -> Result<&'a str, ConsoleError> {
    row.try_get(column).ok().flatten().ok_or(ConsoleError::Column { command, column })
}
