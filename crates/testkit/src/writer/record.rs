//! What a writer did: acknowledged commits, rows in doubt, and the gaps in between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pgbaton_types::BootTime;

/// An acknowledged commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The row's number.
    pub id: i64,
    /// Which of the servers, by its place in the list.
    pub server: usize,
    /// Just before the row was sent.
    pub begun: BootTime,
    /// Just after the server's word was there.
    pub ended: BootTime,
}

/// A row that was sent and not acknowledged: it may or may not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The row's number.
    pub id: i64,
    /// Which of the servers, by its place in the list.
    pub server: usize,
    /// Just before the row was sent.
    pub begun: BootTime,
    /// When it was given up.
    pub ended: BootTime,
    /// Why.
    pub class: FailureClass,
}

/// Why a server did not take a row or a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// Nothing listens there.
    Refused,
    /// The server is starting, stopping or recovering (`57P03`).
    NotAccepting,
    /// It is a standby (`25006`).
    ReadOnly,
    /// It ended the session (`57P01`, `57P02`).
    Terminated,
    /// The connection broke.
    ConnectionLost,
    /// No answer in time.
    TimedOut,
    /// Committed, but with a warning: the wait for synchronous replication was cancelled, so that the row may be lost.
    Unacknowledged,
    /// Anything else, by its SQLSTATE or its words.
    Other(String),
}

/// The time between two commits with none in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last commit before it.
    pub before: Commit,
    /// The first commit after it.
    pub after: Commit,
}

impl Gap {
    /// How long nobody could write: from acknowledgement to acknowledgement.
    pub fn length(&self) -> Duration {
        self.after.ended.since(self.before.ended)
    }
}

/// Everything that a writer did.
#[derive(Debug, Clone)]
pub struct Record {
    servers: Vec<SocketAddr>,
    first: i64,
    next: i64,
    commits: Vec<Commit>,
    failures: Vec<Failure>,
    refusals: BTreeMap<(usize, FailureClass), u64>,
}

impl Record {
    pub(super) fn new(servers: Vec<SocketAddr>, first: i64) -> Self {
        Self { servers, first, next: first, commits: Vec::new(), failures: Vec::new(), refusals: BTreeMap::new() }
    }

    /// The acknowledged commits, in the order of their acknowledgement.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The rows in doubt, in the order in which they were given up.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// How often each server refused a session, or was found to be a standby, and why.
    pub fn refusals(&self) -> &BTreeMap<(usize, FailureClass), u64> {
        &self.refusals
    }

    /// The servers that [`Commit::server`] refers to.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The number of the first row: the table's rows below it belong to an earlier writer.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// The longest time without a commit around an event: of all gaps that end after `from` and begin before `until`,
    /// the longest. None if there were fewer than two commits.
    pub fn longest_gap(&self, from: BootTime, until: BootTime) -> Option<Gap> {
        let gaps = self.commits.windows(2).map(|pair| Gap { before: pair[0], after: pair[1] });
        gaps.filter(|gap| gap.after.ended >= from && gap.before.ended <= until).max_by_key(Gap::length)
    }

    /// The first pair of commits, one after the other, that shows two servers accepting writes at once: the second was
    /// begun before the first ended, on another server.
    pub fn two_writable(&self) -> Option<(Commit, Commit)> {
        let mut pairs = self.commits.windows(2).map(|pair| (pair[0], pair[1]));
        pairs.find(|(first, second)| first.server != second.server && second.begun < first.ended)
    }

    /// How often the writing moved from one server to another. One takeover is one; a server that goes on committing
    /// beside its successor makes it many.
    pub fn moves(&self) -> usize {
        self.commits.windows(2).filter(|pair| pair[0].server != pair[1].server).count()
    }

    /// The number for the next row.
    pub(super) fn take_id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    pub(super) fn committed(&mut self, commit: Commit) {
        self.commits.push(commit);
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    pub(super) fn refused(&mut self, server: usize, class: FailureClass) {
        *self.refusals.entry((server, class)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commits: &[(usize, u64, u64)]) -> Record {
        let mut record = Record::new(Vec::new(), 0);
        for (server, begun, ended) in commits {
            let id = record.take_id();
            record.committed(Commit { id, server: *server, begun: BootTime(*begun), ended: BootTime(*ended) });
        }
        record
    }

    #[test]
    fn the_longest_gap_around_an_event_is_found() {
        let record = record(&[(0, 0, 1), (0, 90, 100), (0, 105, 110), (1, 150, 160), (1, 165, 170), (1, 300, 310)]);
        let gap = record.longest_gap(BootTime(108), BootTime(165)).unwrap();
        assert_eq!((gap.before.ended, gap.after.ended), (BootTime(110), BootTime(160)));
        assert_eq!(gap.length(), Duration::from_nanos(50));
        assert_eq!(record.longest_gap(BootTime(108), BootTime(170)).unwrap().after.ended, BootTime(310));
        assert_eq!(Record::new(Vec::new(), 0).longest_gap(BootTime(0), BootTime(9)), None);
    }

    #[test]
    fn two_servers_at_once_are_seen_and_a_takeover_is_not_taken_for_it() {
        let takeover = record(&[(0, 0, 1), (0, 2, 3), (1, 50, 60), (1, 61, 62)]);
        assert_eq!((takeover.two_writable(), takeover.moves()), (None, 1));
        let both = record(&[(0, 0, 1), (0, 2, 10), (1, 5, 12), (0, 11, 15)]);
        assert!(both.two_writable().is_some());
        assert_eq!(both.moves(), 2);
    }
}
