//! Every part of a member frozen, killed, cut off, while one client on each host goes on committing to that very host's
//! server: nothing of an older timeline is acknowledged after something of a newer one.

use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Part, Place};
use pgbaton_testkit::{clock, wait};
use pgbaton_types::BootTime;

use crate::local_writer::{LocalWriters, Overlap, overlaps};
use crate::report::Report;
use crate::{Context, Outcome, note, with_logs};

/// Longest wait for a healthy cluster after a fault, with a rewind and perhaps a new copy.
const HEALTHY: Duration = Duration::from_secs(120);

/// Beyond the lease: K, an election of the store and a race. A fault that has not led to a takeover by then leads to none.
const BEYOND_LEASE: Duration = Duration::from_secs(5);

/// Commits after the cluster is whole again, before the record is judged.
const COMMITS_AFTER: usize = 50;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Lease of the cluster, in seconds
    #[arg(long, default_value_t = 5.0)]
    ttl: f64,
    /// How often each fault is tried
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Only faults whose description contains this
    #[arg(long)]
    only: Option<String>,
}

/// What is done to a member.
#[derive(Debug, Clone)]
struct Fault {
    frozen: Vec<Part>,
    killed: Vec<Part>,
    cut: bool,
}

impl Fault {
    fn frozen(parts: &[Part]) -> Self {
        Self { frozen: parts.to_vec(), killed: Vec::new(), cut: false }
    }

    fn killed(parts: &[Part]) -> Self {
        Self { frozen: Vec::new(), killed: parts.to_vec(), cut: false }
    }

    fn and_cut(self) -> Self {
        Self { cut: true, ..self }
    }

    /// Every part by itself in every way, and the pairs in which one part must stand in for another.
    fn all() -> Vec<Self> {
        use Part::{Agent, All, InnerGuard, OuterGuard, Postmaster, Server};
        let mut all = vec![Self::frozen(&[]).and_cut()];
        for part in [Agent, InnerGuard, OuterGuard, Postmaster, Server] {
            all.push(Self::frozen(&[part]));
            all.push(Self::frozen(&[part]).and_cut());
            all.push(Self::killed(&[part]));
            all.push(Self::killed(&[part]).and_cut());
        }
        all.push(Self::killed(&[All]));
        all.push(Self::frozen(&[All]));
        all.push(Self::frozen(&[InnerGuard, OuterGuard]));
        all.push(Self::frozen(&[Agent, InnerGuard]));
        all.push(Self::frozen(&[Agent, OuterGuard]));
        all.push(Self::killed(&[Agent, InnerGuard]));
        all.push(Self::killed(&[Agent, OuterGuard]));
        all
    }

    fn name(&self) -> String {
        let list = |verb: &str, parts: &[Part]| {
            let names: Vec<_> = parts.iter().map(ToString::to_string).collect();
            (!parts.is_empty()).then(|| format!("{} {verb}", names.join(" and ")))
        };
        let cut = self.cut.then(|| "cut off".to_owned());
        [list("frozen", &self.frozen), list("killed", &self.killed), cut]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

pub(crate) fn run(context: &Context, options: &Options) -> Outcome<Report> {
    let mut report = Report::new("split-brain", context.seed);
    let retry_timeout = (options.ttl - 1.0) / 2.0 - 0.5;
    let layout =
        ClusterOptions { ttl: options.ttl, retry_timeout, place: Place::Namespaces, ..ClusterOptions::default() };
    let mut cluster = Cluster::new(&context.programs, layout)?;
    cluster.start_all()?;
    for _ in 0..options.rounds {
        for fault in Fault::all() {
            for on_primary in [true, false] {
                let role = if on_primary { "primary" } else { "standby" };
                let name = format!("{role}: {}", fault.name());
                if options.only.as_ref().is_some_and(|only| !name.contains(only)) {
                    continue;
                }
                let outcome = one(&mut cluster, &fault, &name, on_primary, &mut report);
                with_logs(&cluster, outcome)?;
            }
        }
    }
    Ok(report)
}

fn one(cluster: &mut Cluster, fault: &Fault, name: &str, on_primary: bool, report: &mut Report) -> Outcome {
    cluster.wait_healthy(HEALTHY)?;
    let writers = LocalWriters::start(cluster)?;
    let primary = cluster.wait_primary(HEALTHY)?;
    commits_after(cluster, &writers, clock::now())?;
    let member = if on_primary { primary } else { (primary + 1) % cluster.size() };
    let begun = clock::now();
    if fault.cut {
        cluster.cut(member)?;
    }
    for part in &fault.frozen {
        cluster.freeze(member, *part)?;
    }
    for part in &fault.killed {
        cluster.kill(member, *part)?;
    }
    let limit = Duration::from_secs_f64(cluster.options().ttl) + BEYOND_LEASE;
    let taken_over = wait::until("a commit on another member", limit, || {
        let elsewhere = writers.commits().into_iter().find(|commit| commit.begun > begun && commit.member != primary);
        elsewhere.ok_or_else(String::new)
    })
    .ok();
    for part in &fault.frozen {
        cluster.thaw(member, *part)?;
    }
    if fault.cut {
        cluster.heal(member)?;
    }
    cluster.start_all()?;
    cluster.wait_healthy(HEALTHY)?;
    commits_after(cluster, &writers, clock::now())?;
    report.count("faults", 1);
    let verdict = if taken_over.is_some() { "another one took over" } else { "nobody took over" };
    report.reason(verdict, name);
    if let Some(first) = taken_over {
        report.time("from the fault to the successor's first commit", first.ended.since(begun));
    }
    judge(&writers, name, begun, report);
    note(&format!("{name}: {verdict}"));
    Ok(())
}

fn commits_after(cluster: &Cluster, writers: &LocalWriters, instant: BootTime) -> Outcome {
    wait::until("commits on the primary", HEALTHY, || {
        let number = writers.commits().iter().filter(|commit| commit.begun > instant).count();
        if number >= COMMITS_AFTER { Ok(()) } else { Err(format!("{number} commits; {:?}", cluster.states())) }
    })?;
    Ok(())
}

fn judge(writers: &LocalWriters, name: &str, begun: BootTime, report: &mut Report) {
    let since = |time: BootTime| time.since(begun).as_millis();
    for overlap in overlaps(&writers.commits()) {
        match overlap {
            Overlap::Late { commits, begun_after, last, newer } => report.fail(format!(
                "{name}: member {} acknowledged {commits} commits of timeline {} after the first of timeline {} on member {} \
                 ({begun_after} of them begun after it); the last came {} ms, that first {} ms after the fault",
                last.member, last.timeline, newer.timeline, newer.member, since(last.ended), since(newer.ended),
            )),
            Overlap::Shared { timeline, members } => {
                report.fail(format!("{name}: timeline {timeline} was written by members {members:?}"));
            }
        }
    }
}
