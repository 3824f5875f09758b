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
    /// When the voter was last given something to do, or did it.
    since: Instant,
}

impl<'s, S> Pipeline<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    pub(crate) fn new(peer: &'s Peer, input: S, limit: Duration) -> Self {
        Self { peer, input, ended: false, limit, connection: None, sent: VecDeque::new(), since: Instant::now() }
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
            let room = !self.ended && self.sent.len() < REQUESTS_MAX;
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
