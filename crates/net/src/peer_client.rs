use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Connection, FrameError, PeerKey};

/// How long an idle connection is kept for the next call. Longer than the time between two renewals.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// How many idle connections are kept for one peer: as many calls as the clients of a busy store have under way at once. One that is
/// not kept is made anew for the next call, with its handshake.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Why a call to a peer failed, by what that means for the request.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request certainly did not reach the peer.
    #[error("{peer} was not reached")]
    NotSent {
        /// The peer's address.
        peer: String,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The request went out, and no answer came.
    #[error("{peer} did not answer")]
    NoAnswer {
        /// The peer's address.
        peer: String,
        /// Why.
        #[source]
        source: FrameError,
    },
}

/// Calls one peer: a request frame, an answer frame. Calls at the same time use connections of their own. A connection on
/// which anything went wrong is never used again.
pub struct PeerClient {
    address: String,
    key: PeerKey,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PeerClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl PeerClient {
    /// A client of the peer at `address` (host and port). Connects at the first call.
    pub fn new(address: impl Into<String>, key: PeerKey) -> Self {
        Self { address: address.into(), key, idle: Mutex::new(Vec::new()) }
    }

    /// The peer's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, request: &[u8], deadline: Duration) -> Result<Vec<u8>, CallError> {
        self.call_noting(request, deadline, &AtomicBool::new(false)).await
    }

    /// The same, for a caller that may give up earlier: `sent` becomes true before the first byte of the request goes out.
    pub async fn call_noting(
        &self,
        request: &[u8],
        deadline: Duration,
        sent: &AtomicBool,
    ) -> Result<Vec<u8>, CallError> {
        let end = Instant::now() + deadline;
        let mut connection = self
            .connection(deadline)
            .await
            .map_err(|source| CallError::NotSent { peer: self.address.clone(), source })?;
        sent.store(true, Ordering::Release);
        let exchange = async {
            connection.send(request).await?;
            connection.receive().await
        };
        let answer = tokio::time::timeout_at(end, exchange)
            .await
            .unwrap_or_else(|_| Err(FrameError::Timeout { peer: self.address.clone(), after: deadline }))
            .map_err(|source| CallError::NoAnswer { peer: self.address.clone(), source })?;
        self.keep(connection);
        Ok(answer)
    }

    /// A connection that was kept, or a new one: for a caller that sends a request before the answer to the one before is there.
    pub async fn connection(&self, deadline: Duration) -> Result<Connection, FrameError> {
        match self.kept() {
            Some(connection) => Ok(connection),
            None => Connection::connect(&self.address, &self.key, deadline).await,
        }
    }

    /// Keeps a connection on which every request was answered.
    pub fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((connection, Instant::now()));
        }
    }

    /// The most recently used connection, if it looks alive; older ones go.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|(connection, since)| now.duration_since(*since) < IDLE_MAX && connection.is_quiet());
        idle.pop().map(|(connection, _)| connection)
    }
}
