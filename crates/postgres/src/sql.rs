//! SQL on the local server, with a deadline for everything.
//!
//! A driver without time-outs leaves a query running when its future is dropped, and its connection useless: so each
//! query that takes too long is cancelled and its connection thrown away.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::{LocalHost, ServerSpec};

/// How long a cancel request may take; it is sent beside everything else and nobody waits for it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// The name under which the agent's connection is seen in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pgbaton heartbeat";

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlTimeouts {
    /// Until a connection is usable.
    pub connect: Duration,
    /// Until a query has answered; longer ones name their own.
    pub query: Duration,
}

impl Default for SqlTimeouts {
    /// 1 s each: less than a fifth of the shortest lease, so that a hung server is known long before it ends.
    fn default() -> Self {
        Self { connect: Duration::from_secs(1), query: Duration::from_secs(1) }
    }
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No connection.
    #[error("cannot connect to the server at {target}")]
    Connect {
        /// Socket directory or host, and port.
        target: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time; whether the query was executed is not known.
    #[error("no answer from {target} within {waited:?} to: {sql}")]
    TimedOut {
        /// Socket directory or host, and port.
        target: String,
        /// The query, or what was asked.
        sql: String,
        /// The deadline.
        waited: Duration,
    },
    /// The server refused, or the connection broke.
    #[error("the server refused: {sql}")]
    Query {
        /// The query, without secrets.
        sql: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The answer is not what this version of the query gives.
    #[error("unexpected answer to {sql}: {what}")]
    Answer {
        /// The query.
        sql: String,
        /// What is wrong with it.
        what: String,
    },
}

/// What a connection attempt tells of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// It answers queries.
    Ready,
    /// It runs, but takes no connections: starting, stopping, or in recovery without hot standby (SQLSTATE 57P03).
    Starting,
    /// It runs, and has no connection slot left (SQLSTATE 53300).
    Full,
    /// It runs, and does not let us in.
    Refused,
    /// Nobody is listening.
    Absent,
    /// It does not answer.
    Silent,
}

impl SqlError {
    /// The server's error code, if it was the server that answered.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => source.code(),
            Self::TimedOut { .. } | Self::Answer { .. } => None,
        }
    }

    /// What the error tells of the server.
    pub fn readiness(&self) -> Readiness {
        match (self, self.sqlstate()) {
            (_, Some(code)) if *code == SqlState::CANNOT_CONNECT_NOW => Readiness::Starting,
            (_, Some(code)) if *code == SqlState::TOO_MANY_CONNECTIONS => Readiness::Full,
            (Self::Connect { .. }, Some(_)) => Readiness::Refused,
            (Self::Connect { source, .. }, None) if is_io(source) => Readiness::Absent,
            (Self::Connect { .. }, None) => Readiness::Refused,
            (Self::TimedOut { .. }, _) => Readiness::Silent,
            (Self::Query { source, .. }, None) if source.is_closed() || is_io(source) => Readiness::Absent,
            _ => Readiness::Ready,
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// A connection to the local server, kept between queries and made anew when it broke.
pub struct LocalClient {
    config: Config,
    target: String,
    timeouts: SqlTimeouts,
    kept: Option<Connection>,
}

struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl LocalClient {
    /// A client of the server that `spec` describes, as its superuser. Connects at the first query.
    pub fn new(spec: &ServerSpec, timeouts: SqlTimeouts) -> Self {
        let superuser = &spec.authentication.superuser;
        let mut config = Config::new();
        config.user(&superuser.username).dbname(&spec.database).port(spec.port).application_name(APPLICATION_NAME);
        if let Some(password) = &superuser.password {
            config.password(password.expose());
        }
        let host = match spec.local_host() {
            LocalHost::Socket(dir) => {
                config.host_path(&dir);
                dir.display().to_string()
            }
            LocalHost::Tcp(host) => {
                config.host(&host);
                host
            }
        };
        let target = format!("{host}:{}", spec.port);
        // The server ends what we stopped waiting for, also when the cancel request gets lost. JIT costs more than
        // our queries.
        let limit = timeouts.query.as_millis().max(1);
        config.options(format!("-c statement_timeout={limit} -c search_path=pg_catalog -c jit=off"));
        config.connect_timeout(timeouts.connect);
        Self { config, target, timeouts, kept: None }
    }

    /// Asks on the kept connection, within the usual deadline. Gives the rows of each statement.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<SimpleQueryRow>>, SqlError> {
        let within = self.timeouts.query;
        self.query_as(sql, sql, within).await
    }

    /// Executes statements that may take longer.
    pub async fn execute_within(&mut self, sql: &str, within: Duration) -> Result<(), SqlError> {
        let whole = format!("SET statement_timeout = {}", within.as_millis().max(1));
        self.query_as(&whole, &whole, self.timeouts.query).await?;
        let result = self.query_as(sql, sql, within).await;
        let back = "RESET statement_timeout";
        // When it fails, the connection broke and is made anew with the right setting.
        if self.query_as(back, back, self.timeouts.query).await.is_err() {
            self.disconnect();
        }
        result.map(|_| ())
    }

    /// Executes `sql`, showing `shown` instead where it is named: for statements with a secret.
    pub(crate) async fn execute_shown(&mut self, sql: &str, shown: &str) -> Result<(), SqlError> {
        let within = self.timeouts.query;
        self.query_as(sql, shown, within).await.map(|_| ())
    }

    /// The one value of a query with one row and one column.
    pub async fn value(&mut self, sql: &str) -> Result<Option<String>, SqlError> {
        let results = self.query(sql).await?;
        let row = results.first().and_then(|rows| rows.first());
        Ok(row.and_then(|row| row.try_get(0).ok().flatten()).map(str::to_owned))
    }

    /// Throws the kept connection away.
    pub fn disconnect(&mut self) {
        self.kept = None;
    }

    /// Makes a connection of its own and asks for nothing but an answer: whether new clients get in, which a kept
    /// connection does not tell.
    pub async fn probe_new_connection(&self) -> Readiness {
        self.try_new_connection().await.map_or_else(|error| error.readiness(), |()| Readiness::Ready)
    }

    /// Like [`Self::probe_new_connection`], with the error itself.
    pub async fn try_new_connection(&self) -> Result<(), SqlError> {
        let sql = "SELECT 1";
        let connection = self.connect().await?;
        match timeout(self.timeouts.query, ask(&connection.client, sql, sql)).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(self.timed_out(sql, self.timeouts.query)),
        }
    }

    async fn connect(&self) -> Result<Connection, SqlError> {
        let attempt = timeout(self.timeouts.connect, self.config.connect(NoTls)).await;
        let (client, connection) = match attempt {
            Ok(result) => result.map_err(|source| SqlError::Connect { target: self.target.clone(), source })?,
            Err(_) => return Err(self.timed_out("a connection", self.timeouts.connect)),
        };
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the server ended");
            }
        });
        Ok(Connection { client, driver })
    }

    async fn query_as(
        &mut self,
        sql: &str,
        shown: &str,
        within: Duration,
    ) -> Result<Vec<Vec<SimpleQueryRow>>, SqlError> {
        let connection = match self.kept.take() {
            Some(connection) if !connection.client.is_closed() => connection,
            _ => self.connect().await?,
        };
        match timeout(within, ask(&connection.client, sql, shown)).await {
            Ok(result) => {
                if !connection.client.is_closed() {
                    self.kept = Some(connection);
                }
                result
            }
            Err(_) => {
                let cancel = connection.client.cancel_token();
                tokio::spawn(async move {
                    if !matches!(timeout(CANCEL_TIMEOUT, cancel.cancel_query(NoTls)).await, Ok(Ok(()))) {
                        tracing::debug!("a query that took too long could not be cancelled");
                    }
                });
                Err(self.timed_out(shown, within))
            }
        }
    }

    fn timed_out(&self, sql: &str, waited: Duration) -> SqlError {
        SqlError::TimedOut { target: self.target.clone(), sql: sql.to_owned(), waited }
    }
}

/// Sends statements in one message and gives the rows of each.
async fn ask(client: &Client, sql: &str, shown: &str) -> Result<Vec<Vec<SimpleQueryRow>>, SqlError> {
    let messages =
        client.simple_query(sql).await.map_err(|source| SqlError::Query { sql: shown.to_owned(), source })?;
    let mut results = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(_) => results.push(Vec::new()),
            SimpleQueryMessage::Row(row) => match results.last_mut() {
                Some(rows) => rows.push(row),
                None => results.push(vec![row]),
            },
            _ => {}
        }
    }
    Ok(results)
}

/// A string as an SQL literal that means the same whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_strings_cannot_end_early() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
