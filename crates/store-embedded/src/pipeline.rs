//! Replication to one voter: the next request goes out before the answer to the one before is there.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use pgbaton_net::{Connection, FrameError};
use pgbaton_types::chain;
use tokio::time::{Instant, timeout, timeout_at};

use crate::network::Peer;
use crate::protocol::{RaftAnswer, RaftRequest};
use crate::raft_types::TypeConfig;
use crate::raft_types::alias::LogIdT;

/// How many requests are on their way at once: a voter hears what is committed while it still writes the entries before that to its
/// disk. With more of them each one would carry fewer entries.
const REQUESTS_MAX: usize = 2;

/// What openraft hears of one request.
pub(crate) type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// The entries of a request that is on its way.
struct Sent {
    before: Option<LogIdT>,
    last: Option<LogIdT>,
}

/// The requests of `input` and their answers, in one order.
pub(crate) struct Pipeline<'s, S> {
    peer: &'s Peer,
    input: S,
    /// `input` has come to its end.
    ended: bool,
    /// How long one answer may take.
    limit: Duration,
    /// Only while something is on its way: others use it in between.
    connection: Option<Connection>,
    sent: VecDeque<Sent>,
    /// The voter has answered: only now the next request is asked for before an answer. openraft lets a request wait when it is
    /// asked for, and after a failure up to the first answer it lets each wait.
    answers: bool,
    /// When the voter was last given something to do, or did it.
    since: Instant,
}

impl<'s, S> Pipeline<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    pub(crate) fn new(peer: &'s Peer, input: S, limit: Duration) -> Self {
        Self {
            peer,
            input,
            ended: false,
            limit,
            connection: None,
            sent: VecDeque::new(),
            answers: false,
            since: Instant::now(),
        }
    }

    /// The answers. Ends with the first one that is not a success, or not a whole one: openraft then begins anew.
    pub(crate) fn answers(self) -> impl Stream<Item = Answered> + Send + 's {
        stream::unfold(Some(self), |pipeline| async {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                Ok(None) => None,
                Ok(Some((answer, whole))) => Some((Ok(answer), whole.then_some(pipeline))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    /// The next answer, and whether all of the request was taken.
    async fn next(&mut self) -> Result<Option<(StreamAppendResult<TypeConfig>, bool)>, Unreachable<TypeConfig>> {
        loop {
            let most = if self.answers { REQUESTS_MAX } else { 1 };
            let room = !self.ended && self.sent.len() < most;
            let Some(connection) = self.connection.as_mut().filter(|_| !self.sent.is_empty()) else {
                if let Some(connection) = self.connection.take() {
                    self.peer.client.keep(connection);
                }
                match if room { self.input.next().await } else { None } {
                    Some(request) => self.send(request).await?,
                    None => return Ok(None),
                }
                continue;
            };
            let request = tokio::select! {
                biased;
                received = timeout_at(self.since + self.limit, connection.receive()) => {
                    let silent = || FrameError::Timeout { peer: self.peer.client.address().to_owned(), after: self.limit };
                    let answer = received.unwrap_or_else(|_| Err(silent())).map_err(|error| unreachable(&error))?;
                    return self.answered(&answer).map(Some);
                }
                request = self.input.next(), if room => request,
            };
            match request {
                Some(request) => self.send(request).await?,
                None => self.ended = true,
            }
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Result<(), Unreachable<TypeConfig>> {
        let before = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(before);
        let bytes = self.peer.encode(RaftRequest::Append(request));
        if self.sent.is_empty() {
            self.since = Instant::now();
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.peer.client.connection(self.limit).await.map_err(|error| unreachable(&error))?,
        };
        match timeout(self.limit, connection.send(&bytes)).await {
            Ok(sent) => sent.map_err(|error| unreachable(&error))?,
            Err(_) => {
                let peer = connection.peer().to_owned();
                return Err(unreachable(&FrameError::Timeout { peer, after: self.limit }));
            }
        }
        self.connection = Some(connection);
        self.sent.push_back(Sent { before, last });
        Ok(())
    }

    fn answered(&mut self, bytes: &[u8]) -> Result<(StreamAppendResult<TypeConfig>, bool), Unreachable<TypeConfig>> {
        let (Some(sent), RaftAnswer::Append(answer)) = (self.sent.pop_front(), self.peer.decode(bytes)?) else {
            return Err(self.peer.mixed_up());
        };
        self.since = Instant::now();
        self.answers = true;
        let whole = match &answer {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(taken) => *taken == sent.last,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        Ok((answer.into_stream_result(sent.before, sent.last), whole))
    }
}

fn unreachable(error: &FrameError) -> Unreachable<TypeConfig> {
    Unreachable::from_string(chain(error))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use openraft::BasicNode;
    use openraft::network::RaftNetworkFactory;
    use pgbaton_net::{Clients, PeerHandler, PeerKey, PeerServer};
    use tokio::net::TcpListener;

    use super::*;
    use crate::codec;
    use crate::network::Network;
    use crate::protocol::PeerAnswer;
    use crate::raft_types::alias::Vote;

    /// Takes everything.
    struct Taker;

    impl PeerHandler for Taker {
        fn handle(&self, _request: Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send + '_>> {
            let answer = PeerAnswer::Raft(RaftAnswer::Append(AppendEntriesResponse::Success));
            Box::pin(std::future::ready(Some(codec::encode(&answer))))
        }

        fn report(&self, error: FrameError) {
            panic!("{error}");
        }
    }

    fn nothing_new() -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_first_answer_is_awaited_and_later_ones_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = PeerKey::derive(None);
        let server = PeerServer::start(listener, key.clone(), Arc::new(Taker), Clients::default()).unwrap();
        let mut network = Network { key, cluster: Arc::new(AtomicU64::new(1)) };
        let peer = network.new_client(1, &BasicNode::new(server.address())).await;

        let answered = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&answered);
        let (told, asked) = mpsc::channel();
        let input = stream::iter(0..3).map(move |_| {
            told.send(seen.load(Ordering::SeqCst)).unwrap();
            nothing_new()
        });
        let mut answers = Box::pin(Pipeline::new(&peer, input, Duration::from_secs(10)).answers());
        while let Some(answer) = answers.next().await {
            answer.unwrap().unwrap();
            answered.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(
            asked.try_iter().collect::<Vec<_>>(),
            [0, 1, 1],
            "how many answers were there when each was asked for"
        );
        server.stop().await;
    }
}
