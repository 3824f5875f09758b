//! What the servers say about themselves, asked by SQL: the truth that does not depend on any agent.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use pgbaton_types::chain;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use super::{ClusterError, Outcome};

/// Longest wait for one server's word on its state.
const STATE_LIMIT: Duration = Duration::from_secs(1);

/// Longest wait for a test's statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// Rows of text; none is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It takes writes, on this timeline.
    Primary {
        /// The timeline that it writes.
        timeline: u32,
    },
    /// It receives WAL from a primary.
    Streaming,
    /// It is in recovery and receives nothing.
    Waiting,
    /// It gives no answer, and why.
    Silent(String),
}

impl ServerState {
    /// Whether it takes writes.
    pub fn is_primary(&self) -> bool {
        matches!(self, Self::Primary { .. })
    }

    /// Whether it receives WAL.
    pub fn is_streaming(&self) -> bool {
        *self == Self::Streaming
    }
}

/// Asks all servers at once.
pub(super) fn states(servers: &[SocketAddr], user: &str, password: &str) -> Outcome<Vec<ServerState>> {
    let asked = servers.iter().map(|server| state(config(*server, user, password)));
    block_on(futures::future::join_all(asked))
}

/// Runs one or more statements on a new connection; gives the rows of all of them.
pub(super) fn rows(server: SocketAddr, user: &str, password: &str, statement: &str) -> Outcome<Rows> {
    let config = config(server, user, password);
    let read = connected(&config, async |client| client.simple_query(statement).await);
    match block_on(timeout_in_runtime(read))? {
        Some(Ok(messages)) => Ok(messages.iter().filter_map(row).collect()),
        Some(Err(source)) => Err(ClusterError::Sql { server, statement: statement.to_owned(), source }),
        None => {
            let seconds = STATEMENT_LIMIT.as_secs();
            Err(ClusterError::SqlSlow { server, statement: statement.to_owned(), seconds })
        }
    }
}

/// The timer must be made inside the runtime, so this is a future of its own.
async fn timeout_in_runtime<T>(future: impl Future<Output = T>) -> Option<T> {
    timeout(STATEMENT_LIMIT, future).await.ok()
}

fn row(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
        _ => None,
    }
}

async fn state(config: Config) -> ServerState {
    // The control file has the timeline of the last checkpoint, which a promotion makes later; the file that is being
    // written has it in its name (PostgreSQL documentation, section 9.27.3).
    let question = "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
                    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";
    let read = connected(&config, async |client| client.simple_query(question).await);
    match timeout(STATE_LIMIT, read).await {
        Ok(Ok(messages)) => match messages.iter().find_map(row) {
            Some(row) => read_state(&row),
            None => ServerState::Silent("no row".to_owned()),
        },
        Ok(Err(error)) => ServerState::Silent(chain(&error)),
        Err(_) => ServerState::Silent("no answer".to_owned()),
    }
}

fn read_state(row: &[Option<String>]) -> ServerState {
    match row {
        [Some(recovery), _, Some(timeline)] if recovery == "f" => {
            ServerState::Primary { timeline: u32::from_str_radix(timeline, 16).unwrap_or(0) }
        }
        [_, Some(streaming), _] if streaming == "t" => ServerState::Streaming,
        _ => ServerState::Waiting,
    }
}

/// Uses a connection for one question.
async fn connected<T>(config: &Config, ask: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::select! {
        biased;
        answer = ask(&client) => answer,
        // The question above ends with an error of its own when the connection does; one that ends well cannot come first.
        Err(error) = connection => Err(error),
    }
}

fn config(server: SocketAddr, user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user(user).password(password).dbname("postgres");
    config.application_name("pgbaton_testkit").connect_timeout(STATE_LIMIT);
    config
}

fn block_on<T>(future: impl Future<Output = T>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClusterError::Runtime)?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_state() {
        let read = |row: [Option<&str>; 3]| read_state(&row.map(|column| column.map(str::to_owned)));
        assert_eq!(read([Some("f"), Some("f"), Some("0000000A")]), ServerState::Primary { timeline: 10 });
        assert_eq!(read([Some("t"), Some("t"), None]), ServerState::Streaming);
        assert_eq!(read([Some("t"), Some("f"), None]), ServerState::Waiting);
    }
}
