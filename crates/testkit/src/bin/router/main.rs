//! The bench of the router: pgbench directly, through HAProxy, and through the router, one after the other, against one server.
//!
//! The clients run on the same machine and take their share of its processors, from all alike. Started by `cargo xtask bench router`.

mod balancer;
mod idle;
mod load;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use balancer::{Balancer, Kind};
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Programs};
use pgbaton_testkit::figures::{Format, LIMIT, Outcome, end, note};
use pgbaton_testkit::{HostProgram, postgres};
use report::{Measure, Report};

#[derive(Parser)]
#[command(name = "cargo xtask bench router --", about = "The router and HAProxy, measured side by side")]
struct Options {
    /// Rounds of each measurement; the median is what counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',')]
    measures: Vec<Measure>,
    /// Which ways to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["direct", "haproxy", "router"])]
    ways: Vec<Kind>,
    /// Seconds of each load
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How many clients run queries
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// How many connections say nothing
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Worker threads of the router; unless given, what it has by itself
    #[arg(long)]
    workers: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Where logs are
    #[arg(long)]
    work_dir: PathBuf,
    /// The pgbaton to measure
    #[arg(long)]
    pgbaton: PathBuf,
}

/// A load of so many clients, for so long.
type LoadFn = fn(&mut Balancer, usize, Duration) -> Outcome<load::Load>;

fn main() -> ExitCode {
    end(measure(&Options::parse()))
}

fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let wanted = |measure| options.measures.is_empty() || options.measures.contains(&measure);
    let mut report = Report::default();
    let mut add = |round: usize, kind: Kind, measure: Measure, unit: &'static str, value: f64| {
        note(&format!("round {round}, {}: {}: {value:.2} {unit}", kind.title(), measure.title()));
        report.add(measure, kind, unit, value);
    };
    let programs = Programs { pgbaton: options.pgbaton.clone(), host: HostProgram::at(&options.pgbaton) };
    let mut cluster =
        Cluster::new(&programs, ClusterOptions { members: 1, max_connections: 200, ..ClusterOptions::default() })?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    load::prepare(&postgres::bin_dir()?, cluster.servers()[0])?;
    let time = Duration::from_secs(options.seconds);
    // They serve all rounds, as services do: what a start does is not measured.
    let mut ways = Vec::new();
    for kind in &options.ways {
        ways.push((*kind, Balancer::before(*kind, &cluster, &options.pgbaton, options.workers)?));
    }
    for round in 1..=options.rounds {
        // Whoever is second finds a machine that the first has used: everybody comes after everybody else.
        let count = ways.len();
        ways.rotate_left(round % count);
        if round % 2 == 0 {
            ways.reverse();
        }
        for (kind, balancer) in &mut ways {
            let loads: [(Measure, LoadFn); 2] = [(Measure::Select, load::select), (Measure::Connect, load::connect)];
            for (measure, run) in loads.into_iter().filter(|(measure, _)| wanted(*measure)) {
                let load = run(balancer, options.clients, time)?;
                add(round, *kind, measure, "/s", load.per_second);
                add(round, *kind, measure, "ms p99", load.p99);
                if let Some(own) = load.own_micros {
                    add(round, *kind, measure, "us CPU", own);
                }
            }
        }
    }
    drop(ways);
    drop(cluster);
    if wanted(Measure::Idle) {
        for round in 1..=options.rounds.min(3) {
            for kind in options.ways.iter().copied().filter(|kind| *kind != Kind::Direct) {
                let memory = idle::run(kind, options.idle, &options.pgbaton)?;
                add(round, kind, Measure::Idle, "MiB PSS", memory);
            }
        }
    }
    report.print(options.format)
}
