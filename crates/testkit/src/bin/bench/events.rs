//! The events that are measured, one function each.

use std::fmt;
use std::time::Duration;

use pgbaton_testkit::writer::{Record, Writer};
use pgbaton_testkit::{clock, wait};
use pgbaton_types::BootTime;

use crate::cluster::Cluster;
use crate::{Outcome, footprint, store_leader};

/// Commits before an event, and after the first one on the other side of it: write load up to the event, and a
/// gap that is over.
const COMMITS_AROUND: usize = 200;

/// Longest wait for writes to go on.
const WRITABLE: Duration = Duration::from_secs(120);

/// What is done to a cluster, in the order in which a round goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Event {
    /// Three members streaming from nothing
    Start,
    /// A planned switchover
    Switchover,
    /// SIGTERM to the primary's agent
    AgentTerminated,
    /// SIGKILL to the primary's postmaster
    PostmasterKilled,
    /// The primary's host is cut off, then everything on it is killed
    HostLost,
    /// The same, where this host also leads the system's own store
    StoreLeaderLost,
    /// Memory and processor time of one member's agent
    Footprint,
}

impl Event {
    /// The wanted events in the order of a round: whatever is wanted, a round begins with a start.
    pub(crate) fn in_order(wanted: &[Self]) -> Vec<Self> {
        let mut events = wanted.to_vec();
        events.push(Self::Start);
        events.sort_unstable();
        events.dedup();
        // Footprint is taken from the fresh cluster: what failed over may have grown.
        if let Some(place) = events.iter().position(|event| *event == Self::Footprint) {
            let footprint = events.remove(place);
            events.insert(1, footprint);
        }
        events
    }

    /// Its name in the result.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Start => "three members streaming from nothing",
            Self::Switchover => "planned switchover, write gap",
            Self::AgentTerminated => "SIGTERM to the primary's agent, write gap",
            Self::PostmasterKilled => "postmaster killed, write gap",
            Self::HostLost => "host lost, write gap",
            Self::StoreLeaderLost => "host lost that led the store, write gap",
            Self::Footprint => "agent of one member (all three)",
        }
    }
}

/// One measured value.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// What was done.
    pub(crate) event: Event,
    /// What was measured: "ms", "KiB PSS", "KiB RSS", "% CPU".
    pub(crate) unit: &'static str,
    /// The value.
    pub(crate) value: f64,
    /// Acknowledged rows that the new primary does not have; none where nothing was written.
    pub(crate) lost_rows: Option<usize>,
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:.1} {}", self.event.title(), self.value, self.unit)?;
        match self.lost_rows {
            Some(rows) if rows > 0 => write!(formatter, ", {rows} acknowledged rows lost"),
            _ => Ok(()),
        }
    }
}

/// Does it to the cluster, and leaves the cluster healthy.
pub(crate) fn measure(event: Event, cluster: &mut Cluster<'_>, footprint_seconds: u64) -> Outcome<Vec<Sample>> {
    match event {
        Event::Start => start(cluster),
        Event::Footprint => footprint::measure(cluster, Duration::from_secs(footprint_seconds)),
        Event::Switchover => gap(event, cluster, |cluster, primary| cluster.switchover(primary, (primary + 1) % 3)),
        Event::AgentTerminated => gap(event, cluster, Cluster::terminate_agent),
        Event::PostmasterKilled => gap(event, cluster, Cluster::kill_postmaster),
        Event::HostLost | Event::StoreLeaderLost => gap(event, cluster, Cluster::lose_host),
    }
}

fn start(cluster: &mut Cluster<'_>) -> Outcome<Vec<Sample>> {
    let begun = clock::now();
    cluster.start_agents()?;
    cluster.wait_streaming()?;
    let value = milliseconds(clock::now().since(begun));
    cluster.wait_healthy()?;
    Ok(vec![Sample { event: Event::Start, unit: "ms", value, lost_rows: None }])
}

fn gap<'c, F>(event: Event, cluster: &mut Cluster<'c>, act: F) -> Outcome<Vec<Sample>>
where
    F: FnOnce(&mut Cluster<'c>, usize) -> Outcome,
{
    let writer = cluster.writer()?;
    wait::until("commits before the event", WRITABLE, || {
        let commits = writer.so_far().commits().len();
        if commits >= COMMITS_AROUND { Ok(()) } else { Err(format!("{commits} commits")) }
    })?;
    let primary = cluster.primary()?;
    if event == Event::StoreLeaderLost {
        store_leader::make(cluster, primary)?;
    }
    let ended_before = ended_sessions(&writer.so_far(), primary);
    let instant = clock::now();
    act(cluster, primary)?;
    let writable = wait_for_writes(&writer, primary, instant, ended_before)?;
    let lost = writer.missing_on(cluster.servers()[writable])?.len();
    let record = writer.stop()?;
    let gap = record.longest_gap(instant, clock::now()).ok_or("fewer than two commits")?;
    if let Some((first, second)) = record.two_writable() {
        return Err(format!("two servers accepted writes at once: {first:?}, {second:?}").into());
    }
    // One takeover at most; a former primary that commits beside its successor makes the writing go back and forth.
    if record.moves() > 1 {
        return Err(format!("the writing moved {} times between servers in one event", record.moves()).into());
    }
    if matches!(event, Event::HostLost | Event::StoreLeaderLost) {
        cluster.restore_host(primary)?;
    } else if event == Event::AgentTerminated {
        wait_for_end(cluster, primary)?;
    }
    cluster.wait_healthy()?;
    Ok(vec![Sample { event, unit: "ms", value: milliseconds(gap.length()), lost_rows: Some(lost) }])
}

/// Waits until writes go on after the event, and returns the server that takes them: another one than before, or the
/// same one on a new session.
fn wait_for_writes(writer: &Writer, primary: usize, instant: BootTime, ended_before: u64) -> Outcome<usize> {
    let place = wait::until("commits after the event", WRITABLE, || {
        let record = writer.so_far();
        let broken = ended_sessions(&record, primary) > ended_before;
        let after: Vec<_> = record.commits().iter().filter(|commit| commit.begun > instant).collect();
        let moved = after.iter().filter(|commit| commit.server != primary).count();
        match after.last().map(|commit| commit.server) {
            Some(server) if server != primary && moved >= COMMITS_AROUND => Ok(server),
            Some(server) if server == primary && broken && after.len() >= COMMITS_AROUND => Ok(server),
            _ => Err(format!("{} commits, {moved} of them elsewhere", after.len())),
        }
    })?;
    Ok(place)
}

/// How many sessions with a server have ended or were refused.
fn ended_sessions(record: &Record, server: usize) -> u64 {
    record.refusals().iter().filter(|((refusing, _), _)| *refusing == server).map(|(_, count)| count).sum()
}

/// A terminated agent is started again only when it has ended.
fn wait_for_end(cluster: &mut Cluster<'_>, index: usize) -> Outcome {
    wait::until("the end of the agent", WRITABLE, || match cluster.agent_processes(index) {
        Ok(processes) if processes.is_empty() => Ok(()),
        Ok(processes) => Err(format!("{processes:?} run")),
        Err(error) => Err(error.to_string()),
    })?;
    cluster.start_agents()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
