//! The bench of what clients notice: switchovers under pgbench through PgBouncer and the router, and how soon after a change of the primary
//! its followers are there. Started by `cargo xtask bench clients`.

mod changes;
mod switchovers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use pgbaton_testkit::HostProgram;
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Programs};
use pgbaton_testkit::figures::{Figures, Format, LIMIT, Outcome, end, note};

#[derive(Parser)]
#[command(name = "cargo xtask bench clients --", about = "What clients notice of switchovers")]
struct Options {
    /// Switchovers under load
    #[arg(long, default_value_t = 50)]
    switchovers: usize,
    /// Changes of the primary for the times of its followers
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Clients of pgbench
    #[arg(long, default_value_t = 20)]
    clients: usize,
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

fn main() -> ExitCode {
    end(measure(&Options::parse()))
}

fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let mut figures = Figures::default();
    let programs = Programs { pgbaton: options.pgbaton.clone(), host: HostProgram::at(&options.pgbaton) };
    let mut cluster = Cluster::new(&programs, ClusterOptions { max_connections: 200, ..ClusterOptions::default() })?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    if options.switchovers > 0 {
        switchovers::run(&cluster, options, &mut figures)?;
    }
    if options.changes > 0 {
        changes::run(&cluster, options, &mut figures)?;
    }
    figures.print(options.format)
}

/// One switchover to the next member in the row: how long until the answer.
fn switchover(cluster: &Cluster) -> Outcome<(usize, Duration)> {
    let from = cluster.wait_primary(LIMIT)?;
    let to = (from + 1) % cluster.size();
    let began = pgbaton_testkit::clock::now();
    let answer = cluster.switchover(from, from, Some(to))?;
    if answer.status != 200 {
        return Err(format!("the switchover was refused: {} {}", answer.status, answer.body).into());
    }
    Ok((to, pgbaton_testkit::clock::now().since(began)))
}
