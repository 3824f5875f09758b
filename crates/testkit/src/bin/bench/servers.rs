//! What the three servers say about themselves, asked by SQL: the truth that does not depend on the system measured.

use std::net::SocketAddr;
use std::time::Duration;

use pgbaton_types::chain;
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls};

use crate::Outcome;
use crate::system::PASSWORD;

/// Longest wait for one server's answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// It takes writes.
    Primary,
    /// It receives WAL from a primary.
    Streaming,
    /// It is in recovery and receives nothing.
    Waiting,
    /// It gives no answer, and why.
    Silent(String),
}

/// Asks all servers at once.
pub(crate) fn states(servers: &[SocketAddr]) -> Outcome<Vec<ServerState>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(futures::future::join_all(servers.iter().map(|server| state(*server)))))
}

async fn state(server: SocketAddr) -> ServerState {
    match timeout(LIMIT, query(server)).await {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => ServerState::Silent(chain(&error)),
        Err(_) => ServerState::Silent("no answer".to_owned()),
    }
}

async fn query(server: SocketAddr) -> Result<ServerState, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user("postgres").password(PASSWORD).dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    let read = async {
        let question =
            "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
        let row = client.query_one(question, &[]).await?;
        Ok(match (row.try_get(0)?, row.try_get(1)?) {
            (false, _) => ServerState::Primary,
            (true, true) => ServerState::Streaming,
            (true, false) => ServerState::Waiting,
        })
    };
    tokio::select! {
        biased;
        state = read => state,
        Err(error) = connection => Err(error),
    }
}
