//! The bench of the store: the embedded one and a real etcd, side by side, through etcd's own protocol.
//!
//! Every figure is taken from both in turn, on the same disk, with fsync on, by the same client code. The clients run on the same machine
//! and take their share of its processors, from both alike. Started by `cargo xtask bench store`.

mod client;
mod election;
mod footprint;
mod leases;
mod load;
mod report;
mod voters;
mod watching;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pgbaton_testkit::figures::{Format, Outcome, end, note};

use report::{Measure, Report};
use voters::{Kind, Voters};

#[derive(Parser)]
#[command(name = "cargo xtask bench store --", about = "The embedded store and a real etcd, measured side by side")]
struct Options {
    /// Rounds of each measurement; the median is what counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these measurements
    #[arg(long, value_enum, value_delimiter = ',')]
    measures: Vec<Measure>,
    /// Which stores to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["etcd", "embedded"])]
    stores: Vec<Kind>,
    /// How many members the stores have
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    members: Vec<usize>,
    /// Seconds of each load
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often the leader of the store is killed, in all rounds together
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// How many clusters renew their leases
    #[arg(long, default_value_t = 1000)]
    clusters: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Where the stores and their logs are; on a real disk
    #[arg(long)]
    work_dir: PathBuf,
    /// The pgbaton to measure
    #[arg(long)]
    pgbaton: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(measure(&Options::parse()).await)
}

async fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let mut report = Report::default();
    for round in 1..=options.rounds {
        for members in &options.members {
            // Whoever is second finds a machine that the first has used.
            let mut stores = options.stores.clone();
            stores.rotate_left(round % options.stores.len());
            for kind in stores {
                measure_store(options, kind, *members, round, &mut report).await?;
            }
        }
    }
    report.print(options.format)
}

/// All figures of one store, made from nothing.
async fn measure_store(options: &Options, kind: Kind, members: usize, round: usize, report: &mut Report) -> Outcome {
    let wanted = |measure| options.measures.is_empty() || options.measures.contains(&measure);
    let mut voters = Voters::start(kind, members, &options.work_dir, &options.pgbaton)?;
    voters.ready().await?;
    let mut add = |measure: Measure, unit: &'static str, value: f64| {
        note(&format!("round {round}, {members} x {}: {}: {value:.2} {unit}", kind.title(), measure.title()));
        report.add(measure, members, kind, unit, value);
    };
    // First, before the loads have left anything behind.
    if wanted(Measure::Memory) && members > 1 {
        add(Measure::Memory, "MiB PSS", footprint::memory(&voters).await?);
    }
    let time = Duration::from_secs(options.seconds);
    for (measure, clients, reads) in
        [(Measure::PutAlone, 1, false), (Measure::Put, 32, false), (Measure::Get, 32, true)]
    {
        if wanted(measure) {
            let load = load::run(&voters, clients, reads, time).await?;
            add(measure, "/s", load.per_second);
            add(measure, "ms p50", load.percentile(50));
            add(measure, "ms p99", load.percentile(99));
        }
    }
    if wanted(Measure::Watch) {
        let times = watching::run(&voters, time).await?;
        add(Measure::Watch, "ms p50", times.percentile(50));
        add(Measure::Watch, "ms p99", times.percentile(99));
    }
    if wanted(Measure::Leases) {
        add(Measure::Leases, "% CPU", leases::run(&voters, options.clusters, time).await?);
    }
    if wanted(Measure::Election) && members > 1 {
        for _ in 0..options.kills.div_ceil(options.rounds) {
            add(Measure::Election, "ms", election::run(&mut voters).await?);
        }
    }
    Ok(())
}
