//! The bench of what clients notice: switchovers under pgbench through PgBouncer and the router, and how soon after a change of the primary
//! its followers are there. Started by `cargo xtask bench clients`.

mod changes;
mod report;
mod switchovers;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use pgbaton_testkit::HostProgram;
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Programs};
use pgbaton_types::chain;
use report::{Format, Report};

/// What can go wrong on the way to a figure; the text names it.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(60);

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
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let mut report = Report::default();
    let programs = Programs { pgbaton: options.pgbaton.clone(), host: HostProgram::at(&options.pgbaton) };
    let mut cluster = Cluster::new(&programs, ClusterOptions { max_connections: 200, ..ClusterOptions::default() })?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    if options.switchovers > 0 {
        switchovers::run(&cluster, options, &mut report)?;
    }
    if options.changes > 0 {
        changes::run(&cluster, options, &mut report)?;
    }
    report.print(options.format)
}

/// Tells the person at the terminal how far it is; standard output is for the result.
fn note(line: &str) {
    // Losing it is right: the result does not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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
