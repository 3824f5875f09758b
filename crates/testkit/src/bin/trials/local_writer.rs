//! One client for each server, on that very host: it goes on committing whatever the network does, and so sees what the
//! clients of a primary that is cut off would see.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::{Cluster, SUPERUSER};
use pgbaton_types::BootTime;
use tokio::sync::watch;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::Outcome;

/// Time between two commits of one client.
const INTERVAL: Duration = Duration::from_millis(3);

/// Pause before a new attempt to connect, or to ask a standby again.
const PAUSE: Duration = Duration::from_millis(10);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS pgbaton_split (id bigserial PRIMARY KEY, member int)";

/// An acknowledged commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalCommit {
    /// On which member's server.
    pub(crate) member: usize,
    /// On which timeline, by the server's own word in the same transaction.
    pub(crate) timeline: u32,
    /// Just before it was sent.
    pub(crate) begun: BootTime,
    /// Just after the server's word was there.
    pub(crate) ended: BootTime,
}

/// What shows two primaries at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Commits of an older timeline were acknowledged after the first of a newer one.
    Late {
        /// How many.
        commits: usize,
        /// How many of them were even begun after it.
        begun_after: usize,
        /// The last of them.
        last: LocalCommit,
        /// The first commit of the newer timeline.
        newer: LocalCommit,
    },
    /// One timeline was written by two members.
    Shared {
        /// Which.
        timeline: u32,
        /// By whom.
        members: BTreeSet<usize>,
    },
}

/// Running clients. There is no limit for an answer: what a thawed server acknowledges late is what this looks for.
pub(crate) struct LocalWriters {
    commits: Arc<Mutex<Vec<LocalCommit>>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl LocalWriters {
    /// Starts one client for each member.
    pub(crate) fn start(cluster: &Cluster) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let commits = Arc::new(Mutex::new(Vec::new()));
        let (stop, mut stopped) = watch::channel(false);
        let places: Vec<_> =
            (0..cluster.size()).map(|member| (cluster.socket_dir(member), cluster.postgres_port(member))).collect();
        let shared = Arc::clone(&commits);
        let body = move || {
            runtime.block_on(async {
                let clients = places.iter().enumerate().map(|(member, place)| client(member, place, &shared));
                tokio::select! {
                    _ = join_all(clients) => {}
                    // An error means that the writers were dropped: they end as well.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("local writers".into()).spawn(body)?;
        Ok(Self { commits, stop, thread: Some(thread) })
    }

    /// What was acknowledged so far, in the order of acknowledgement.
    pub(crate) fn commits(&self) -> Vec<LocalCommit> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for LocalWriters {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Losing it is right: nothing depends on how it ended.
            let _ = thread.join();
        }
    }
}

async fn client(member: usize, place: &(PathBuf, u16), commits: &Mutex<Vec<LocalCommit>>) {
    let mut config = Config::new();
    config.host_path(&place.0).port(place.1).user(SUPERUSER).dbname("postgres").application_name("pgbaton_local");
    loop {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            tokio::select! {
                biased;
                // However a session ends, the next turn begins with a new one.
                _ = write(&client, member, commits) => {}
                _ = connection => {}
            }
        }
        // waits: between attempts, not for a state
        tokio::time::sleep(PAUSE).await;
    }
}

async fn write(client: &Client, member: usize, commits: &Mutex<Vec<LocalCommit>>) -> Result<(), tokio_postgres::Error> {
    let first = |rows: &[SimpleQueryMessage]| {
        rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    };
    while first(&client.simple_query("SHOW transaction_read_only").await?).as_deref() != Some("off") {
        // waits: between questions to a standby
        tokio::time::sleep(PAUSE).await;
    }
    client.simple_query(TABLE).await?;
    let insert = format!(
        "INSERT INTO pgbaton_split (member) VALUES ({member}) \
         RETURNING left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
    );
    loop {
        let begun = clock::now();
        let rows = client.simple_query(&insert).await?;
        let ended = clock::now();
        if let Some(timeline) = first(&rows).and_then(|text| u32::from_str_radix(&text, 16).ok()) {
            let commit = LocalCommit { member, timeline, begun, ended };
            commits.lock().unwrap_or_else(PoisonError::into_inner).push(commit);
        }
        // waits: between commits
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What two primaries at once left in the record.
pub(crate) fn overlaps(commits: &[LocalCommit]) -> Vec<Overlap> {
    let mut timelines: BTreeMap<u32, Vec<LocalCommit>> = BTreeMap::new();
    for commit in commits {
        timelines.entry(commit.timeline).or_default().push(*commit);
    }
    let mut found = Vec::new();
    for (timeline, written) in &timelines {
        let members: BTreeSet<_> = written.iter().map(|commit| commit.member).collect();
        if members.len() > 1 {
            found.push(Overlap::Shared { timeline: *timeline, members });
        }
        let newer = timelines.range(timeline + 1..).flat_map(|(_, written)| written);
        if let Some(newer) = newer.min_by_key(|commit| commit.ended).copied() {
            let late: Vec<_> = written.iter().filter(|commit| commit.ended > newer.ended).collect();
            if let Some(last) = late.iter().max_by_key(|commit| commit.ended) {
                let begun_after = late.iter().filter(|commit| commit.begun > newer.ended).count();
                found.push(Overlap::Late { commits: late.len(), begun_after, last: **last, newer });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(member: usize, timeline: u32, begun: u64, ended: u64) -> LocalCommit {
        LocalCommit { member, timeline, begun: BootTime(begun), ended: BootTime(ended) }
    }

    #[test]
    fn a_takeover_is_no_overlap() {
        assert_eq!(overlaps(&[commit(0, 1, 0, 1), commit(0, 1, 2, 3), commit(1, 2, 9, 10)]), []);
    }

    #[test]
    fn a_late_acknowledgement_is_seen_and_told_from_a_late_write() {
        let newer = commit(1, 2, 9, 10);
        let in_flight = commit(0, 1, 5, 12);
        let seen = overlaps(&[commit(0, 1, 0, 1), newer, in_flight]);
        assert_eq!(seen, [Overlap::Late { commits: 1, begun_after: 0, last: in_flight, newer }]);
        let after = commit(0, 1, 11, 12);
        assert_eq!(overlaps(&[newer, after]), [Overlap::Late { commits: 1, begun_after: 1, last: after, newer }]);
    }

    #[test]
    fn two_writers_of_one_timeline_are_seen() {
        let seen = overlaps(&[commit(0, 2, 0, 1), commit(1, 2, 2, 3)]);
        assert_eq!(seen, [Overlap::Shared { timeline: 2, members: BTreeSet::from([0, 1]) }]);
    }
}
