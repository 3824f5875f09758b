//! Switchovers at random instants. Whatever the answer: no acknowledged row may be missing on who leads afterwards, and after a
//! refusal the old primary takes writes again.

use std::time::Duration;

use pgbaton_testkit::cluster::{Answer, Cluster, ClusterError, Options as ClusterOptions, Part, Random};
use pgbaton_testkit::writer::{Commit, Writer};
use pgbaton_testkit::{clock, wait};
use pgbaton_types::{BootTime, chain};

use crate::load::Load;
use crate::report::Report;
use crate::{Context, Outcome, note, with_logs};

/// How old a cluster is when its first seconds are over and the load begins.
const FIRST_SECONDS: Duration = Duration::from_secs(10);

/// Instants in one cluster under load, after its first seconds.
const UNDER_LOAD: usize = 12;

/// Longest pause before an instant.
const PAUSE_MAX: Duration = Duration::from_millis(700);

/// In how many of a hundred cases a standby's receiver is stopped.
const STOPPED_PERCENT: usize = 25;

/// In how many of a hundred cases the request names a candidate.
const NAMED_PERCENT: usize = 60;

/// Longest wait for a cluster's first primary.
const FIRST_PRIMARY: Duration = Duration::from_secs(60);

/// What is promised for a refusal: the old primary takes writes again within this time. Counted; a machine with one processor
/// for each two members exceeds it now and then.
const PROMISED_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Longest wait for writes to go on after an answer. Far above the second that is promised, so that a slow machine shows as a
/// long gap in the report and not as a broken promise.
const WRITES_AGAIN: Duration = Duration::from_secs(15);

/// Longest wait for a healthy cluster at the end.
const HEALTHY: Duration = Duration::from_secs(90);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many instants
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Lease of the clusters, in seconds
    #[arg(long, default_value_t = 10.0)]
    ttl: f64,
}

/// One question to one cluster.
struct Instant {
    from: usize,
    to: Option<usize>,
    stopped: Option<usize>,
    asked: usize,
}

pub(crate) fn run(context: &Context, options: &Options) -> Outcome<Report> {
    let mut report = Report::new("switchover", context.seed);
    for what in ["switched", "refused", "lost rows"] {
        report.count(what, 0);
    }
    let (mut left, mut number) = (options.count, 0);
    while left > 0 {
        number += 1;
        let done = one_cluster(context, options, number, left, &mut report)?;
        left -= done.min(left);
        note(&format!("cluster {number}: {done} instants, {left} to go"));
        if done == 0 {
            return Err("a cluster in which no instant could be tried".into());
        }
    }
    Ok(report)
}

fn one_cluster(context: &Context, options: &Options, number: u64, most: usize, report: &mut Report) -> Outcome<usize> {
    let retry_timeout = (options.ttl - 1.0) / 2.0 - 0.5;
    let layout = ClusterOptions { ttl: options.ttl, retry_timeout, ..ClusterOptions::default() };
    let mut cluster = Cluster::new(&context.programs, layout)?;
    cluster.start_all()?;
    let outcome = instants(&cluster, context.seed, number, most, report);
    with_logs(&cluster, outcome)
}

fn instants(cluster: &Cluster, seed: u64, number: u64, most: usize, report: &mut Report) -> Outcome<usize> {
    let mut random = Random::new(seed, number);
    let writer = cluster.writer()?;
    wait::until("a first row", FIRST_PRIMARY, || {
        writer.last_commit().map(|_| ()).ok_or_else(|| format!("{:?}", cluster.states()))
    })?;
    let born = clock::now();
    let mut done = 0;
    while done < most && clock::now().since(born) < FIRST_SECONDS {
        done += one(cluster, &writer, &mut random, "in the first 10 s", report)?;
    }
    let load = Load::start(&cluster.target())?;
    for _ in 0..UNDER_LOAD {
        if done < most {
            done += one(cluster, &writer, &mut random, "under load", report)?;
        }
    }
    drop(load);
    cluster.wait_healthy(HEALTHY)?;
    let primary = cluster.wait_primary(HEALTHY)?;
    lost(cluster, &writer, primary, "at the end", report)?;
    if let Some((first, second)) = writer.stop()?.two_writable() {
        report.fail(format!("cluster {number}: two servers took writes at once: {first:?}, {second:?}"));
    }
    Ok(done)
}

/// One instant: 1, or 0 if nobody led just then.
fn one(cluster: &Cluster, writer: &Writer, random: &mut Random, phase: &str, report: &mut Report) -> Outcome<usize> {
    // waits: the random instant itself
    std::thread::sleep(random.time(PAUSE_MAX));
    let Some(last) = writer.last_commit() else { return Ok(0) };
    let others: Vec<usize> = (0..cluster.size()).filter(|member| *member != last.server).collect();
    let to = random.chance(NAMED_PERCENT).then(|| others[random.below(others.len())]);
    let stop = random.chance(STOPPED_PERCENT).then(|| to.unwrap_or(others[random.below(others.len())]));
    // A standby that is not streaming yet has no receiver to stop: then the instant is one without.
    let stopped = stop.filter(|member| cluster.freeze(*member, Part::WalReceiver).is_ok());
    let instant = Instant { from: last.server, to, stopped, asked: random.below(cluster.size()) };
    let begun = clock::now();
    let answer = cluster.switchover(instant.asked, instant.from, instant.to);
    let answered = clock::now();
    if let Some(member) = instant.stopped {
        cluster.thaw(member, Part::WalReceiver)?;
    }
    let answer = match answer {
        // In a cluster's first moments not every member listens yet; that is a refusal, too.
        Err(ClusterError::Rest { request, source, .. }) => Answer { status: 0, body: format!("{request}: {source}") },
        other => other?,
    };
    report.count(&format!("instants {phase}"), 1);
    report.count("with a stopped receiver", usize::from(stopped.is_some()));
    let switched = answer.status == 200;
    report.count(if switched { "switched" } else { "refused" }, 1);
    if !switched {
        report.reason("refused", &format!("{} {}", answer.status, without_names(&answer.body)));
    }
    let commit = writes_again(cluster, writer, answered, begun, &instant, switched, report)?;
    lost(cluster, writer, commit.server, &format!("{phase}, answer {} {}", answer.status, answer.body), report)?;
    Ok(1)
}

/// The first commit after the answer: on another server after a switchover, on the same one after a refusal.
fn writes_again(
    cluster: &Cluster,
    writer: &Writer,
    answered: BootTime,
    begun: BootTime,
    instant: &Instant,
    switched: bool,
    report: &mut Report,
) -> Outcome<Commit> {
    let found = wait::until("a commit after the answer", WRITES_AGAIN, || {
        writer.commit_begun_after(answered).ok_or_else(|| format!("none; servers: {:?}", cluster.states()))
    });
    let commit = match found {
        Ok(commit) => commit,
        Err(error) => {
            let what = if switched { "a switchover" } else { "a refusal" };
            report.fail(format!("nobody took writes after {what}: {error}"));
            return Err("no writes after an answer".into());
        }
    };
    let moved = commit.server != instant.from;
    if switched && !moved {
        report.fail(format!("the answer was 200, but member {} still takes writes", instant.from));
    }
    if !switched && moved {
        // Not lost, but not what was said either: counted, since a slow answer can be overtaken by an election.
        report.count("refused, and another one led afterwards", 1);
    }
    if switched && instant.to.is_some_and(|wanted| wanted != commit.server) {
        report.count("switched to another one than asked for", 1);
    }
    if let Some(gap) = writer.so_far().longest_gap(begun, commit.ended) {
        report.time(if switched { "write gap of a switchover" } else { "write gap of a refusal" }, gap.length());
        let late = !switched && gap.length() > PROMISED_AFTER_REFUSAL;
        report.count("refusals with more than a second without writes", usize::from(late));
    }
    Ok(commit)
}

fn lost(cluster: &Cluster, writer: &Writer, server: usize, when: &str, report: &mut Report) -> Outcome {
    let missing = wait::until("the rows of the new primary", WRITES_AGAIN, || {
        // The record first, the table after it: what is acknowledged in between is not looked for.
        writer.missing_on(cluster.servers()[server]).map_err(|error| chain(&error))
    })?;
    report.count("lost rows", missing.len());
    if !missing.is_empty() {
        report.fail(format!("{} acknowledged rows lost ({when}), the first is {}", missing.len(), missing[0]));
    }
    Ok(())
}

/// Members' names and positions differ from case to case; reasons are counted without them.
fn without_names(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_matches(|sign: char| !sign.is_alphanumeric());
        let is_name = bare.len() == 2 && bare.starts_with('m') && bare.as_bytes()[1].is_ascii_digit();
        let is_number = bare.contains(|sign: char| sign.is_ascii_digit()) && !is_name;
        if is_name {
            word.replace(bare, "NAME")
        } else if is_number {
            word.replace(bare, "N")
        } else {
            word.to_owned()
        }
    };
    text.trim().split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_without_names_and_numbers() {
        assert_eq!(without_names("m2 is at 0/3000060, m1 waits 400 ms"), "NAME is at N, NAME waits N ms");
    }
}
