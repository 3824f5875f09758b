use std::sync::{Arc, Mutex};

use openraft::Raft;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::sync::oneshot;

use crate::node::lock;
use crate::protocol::Outcome;
use crate::raft_types::TypeConfig;
use crate::state_machine::StateMachine;

/// Makes sure, by asking a majority, that the applied state shows everything that was answered so far.
///
/// One round among the voters serves everybody who came before it began; who comes while it is under way waits for the next one. So a
/// thousand readers cost no more rounds than one reader that asks again and again.
#[derive(Clone)]
pub(crate) struct ReadBarrier {
    raft: Raft<TypeConfig, StateMachine>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Whether rounds are being made; whoever is in here is served by the next one.
    running: bool,
    readers: Vec<oneshot::Sender<Result<u64, Outcome>>>,
}

impl ReadBarrier {
    pub(crate) fn new(raft: Raft<TypeConfig, StateMachine>) -> Self {
        Self { raft, waiting: Arc::default() }
    }

    /// Waits for a round that begins after this call; gives the term of the leader that it was passed by.
    pub(crate) async fn pass(&self) -> Result<u64, Outcome> {
        let (sender, passed) = oneshot::channel();
        let first = {
            let mut waiting = lock(&self.waiting);
            waiting.readers.push(sender);
            !std::mem::replace(&mut waiting.running, true)
        };
        if first {
            // On its own: a reader that gives up must not end the round of the others.
            tokio::spawn(self.clone().rounds());
        }
        passed.await.unwrap_or_else(|_| Err(Outcome::Unavailable("this voter is being shut down".to_owned())))
    }

    async fn rounds(self) {
        loop {
            let readers = {
                let mut waiting = lock(&self.waiting);
                waiting.running = !waiting.readers.is_empty();
                std::mem::take(&mut waiting.readers)
            };
            if readers.is_empty() {
                return;
            }
            let outcome = self.round().await;
            for reader in readers {
                // One that has given up needs no answer.
                let _ = reader.send(outcome.clone());
            }
        }
    }

    async fn round(&self) -> Result<u64, Outcome> {
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Outcome::NotLeader,
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => {
                Outcome::Unavailable(format!("no majority of the voters answered: {error}"))
            }
            RaftError::Fatal(error) => Outcome::Unavailable(error.to_string()),
        })?;
        let state =
            linearizer.await_ready(&self.raft).await.map_err(|error| Outcome::Unavailable(error.to_string()))?;
        Ok(state.read_log_id().committed_leader_id().term)
    }
}
