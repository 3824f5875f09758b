//! SIGKILL to everything of the primary's member, under load. Asynchronous replication may lose what had not left the primary,
//! and nothing else; afterwards there is one primary, and the killed member comes back as its standby.

use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Random};
use pgbaton_testkit::writer::Writer;
use pgbaton_testkit::{clock, wait};

use crate::load::Load;
use crate::report::Report;
use crate::{Context, Outcome, note, with_logs};

/// Commits before a kill: enough that there is load up to the instant.
const COMMITS_BEFORE: usize = 100;

/// Longest pause before a kill.
const PAUSE_MAX: Duration = Duration::from_millis(1500);

/// Longest wait for a new primary's first rows, also when the lost member led the store as well.
const FAILOVER: Duration = Duration::from_secs(60);

/// Longest wait for a healthy cluster, with a rewind and perhaps a new copy.
const HEALTHY: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many kills
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Lease of the cluster, in seconds
    #[arg(long, default_value_t = 5.0)]
    ttl: f64,
}

pub(crate) fn run(context: &Context, options: &Options) -> Outcome<Report> {
    let mut report = Report::new("failover", context.seed);
    let retry_timeout = (options.ttl - 1.0) / 2.0 - 0.5;
    let layout = ClusterOptions { ttl: options.ttl, retry_timeout, ..ClusterOptions::default() };
    let mut cluster = Cluster::new(&context.programs, layout)?;
    cluster.start_all()?;
    for round in 1..=options.count {
        let outcome = one(&mut cluster, &mut Random::new(context.seed, round), &mut report);
        with_logs(&cluster, outcome)?;
        note(&format!("kill {round} of {}", options.count));
    }
    Ok(report)
}

fn one(cluster: &mut Cluster, random: &mut Random, report: &mut Report) -> Outcome {
    cluster.wait_healthy(HEALTHY)?;
    let _load = Load::start(&cluster.target())?;
    let writer = cluster.writer()?;
    wait::until("commits before the kill", FAILOVER, || {
        let commits = writer.so_far().commits().len();
        if commits >= COMMITS_BEFORE { Ok(()) } else { Err(format!("{commits} commits")) }
    })?;
    // waits: the random instant itself
    std::thread::sleep(random.time(PAUSE_MAX));
    let primary = cluster.wait_primary(FAILOVER)?;
    let arrived = arrived(cluster, primary)?;
    let instant = clock::now();
    cluster.kill_member(primary)?;
    let commit = wait::until("a commit on another server", FAILOVER, || {
        let record = writer.so_far();
        let found = record.commits().iter().find(|commit| commit.begun > instant && commit.server != primary).copied();
        found.ok_or_else(|| format!("{:?}", cluster.states()))
    })?;
    report.count("failovers", 1);
    if let Some(gap) = writer.so_far().longest_gap(instant, commit.ended) {
        report.time("without writes", gap.length());
    }
    lost(cluster, &writer, commit.server, arrived, report)?;
    let states = cluster.states()?;
    if states.iter().filter(|state| state.is_primary()).count() != 1 {
        report.fail(format!("not one primary after a failover: {states:?}"));
    }
    let begun = clock::now();
    cluster.start(primary)?;
    cluster.wait_streaming(primary, HEALTHY)?;
    report.time("the killed member streams again", clock::now().since(begun));
    let record = writer.stop()?;
    if let Some((first, second)) = record.two_writable() {
        report.fail(format!("two servers took writes at once: {first:?}, {second:?}"));
    }
    Ok(())
}

/// The highest row that any standby has already: what has certainly left the primary.
fn arrived(cluster: &Cluster, primary: usize) -> Outcome<i64> {
    let mut highest = 0;
    for standby in (0..cluster.size()).filter(|member| *member != primary) {
        let rows = cluster.sql(standby, "SELECT coalesce(max(id), 0) FROM pgbaton_writer")?;
        let row = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
        highest = highest.max(row.ok_or("no highest row")?);
    }
    Ok(highest)
}

fn lost(cluster: &Cluster, writer: &Writer, primary: usize, arrived: i64, report: &mut Report) -> Outcome {
    let missing = writer.missing_on(cluster.servers()[primary])?;
    report.count("acknowledged rows lost that had not left the primary", missing.len());
    let gone: Vec<_> = missing.iter().filter(|row| **row <= arrived).collect();
    if !gone.is_empty() {
        report.fail(format!("{} acknowledged rows lost that a standby had: {gone:?}", gone.len()));
    }
    Ok(())
}
