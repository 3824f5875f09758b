//! The bench of what is published: how long after a new primary's first write a record in `ZooKeeper` names it, and a command on the event has run.
//!
//! Started by `cargo xtask bench publish`.

mod seen;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Programs};
use pgbaton_testkit::{HostProgram, Launch, OsUser, Process, TempDir, ZooKeeper, clock, wait};
use pgbaton_types::{BootTime, chain};
use seen::Seen;
use serde_json::json;

/// What can go wrong on the way to a figure; the text names it.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(60);
/// The node.
const PATH: &str = "/service/bench/primary";

#[derive(Parser)]
#[command(name = "cargo xtask bench publish --", about = "How long a switchover takes to be published")]
struct Options {
    /// Switchovers; the median is what counts
    #[arg(long, default_value_t = 10)]
    rounds: usize,
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

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table
    Pretty,
    /// One JSON document with every sample
    Json,
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
    let programs = Programs { pgbaton: options.pgbaton.clone(), host: HostProgram::at(&options.pgbaton) };
    let mut cluster = Cluster::new(&programs, ClusterOptions::default())?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    let zookeeper = ZooKeeper::started()?;
    let user = OsUser::for_servers()?;
    let directory = TempDir::new("bench-publish", &user)?;
    let told = directory.path().join("told");
    let _publisher = publisher(options, &cluster, &zookeeper, &directory)?;
    let (record, command) = (Seen::in_zookeeper(zookeeper.address(), PATH), Seen::in_file(told));
    let writer = cluster.writer()?;
    let (mut records, mut commands) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let first = cluster.wait_primary(LIMIT)?;
        record.wait_for(cluster.name(first), BootTime(0), LIMIT)?;
        let begun = clock::now();
        let answer = cluster.switchover(first, first, None)?;
        if answer.status != 200 {
            return Err(format!("the switchover was refused: {answer:?}").into());
        }
        let second = cluster.wait_primary(LIMIT)?;
        let commit = wait::until("a commit on the new primary", LIMIT, || {
            let record = writer.so_far();
            let found = record.commits().iter().find(|commit| commit.begun > begun && commit.server == second);
            found.copied().ok_or_else(|| "none".to_owned())
        })?;
        let after = |at: BootTime| at.since(commit.begun).as_secs_f64() * 1e3;
        records.push(after(record.wait_for(cluster.name(second), begun, LIMIT)?));
        commands.push(after(command.wait_for(cluster.name(second), begun, LIMIT)?));
        note(&format!("round {round}: record {:.1} ms, command {:.1} ms", records[round - 1], commands[round - 1]));
        cluster.wait_healthy(LIMIT)?;
    }
    let rows = [("record in ZooKeeper", records), ("command has run", commands)];
    let text = match options.format {
        Format::Pretty => rows.iter().fold(
            "ms after the first write on the new primary: median (lowest to highest)\n".to_owned(),
            |text, (title, values)| {
                let [median, lowest, highest] = [50, 0, 100].map(|percent| percentile(values, percent));
                format!("{text}{title:20} {median:.1} ({lowest:.1} to {highest:.1})\n")
            },
        ),
        Format::Json => {
            let rows = rows.iter().map(|(title, values)| json!({"measure": title, "unit": "ms", "median": percentile(values, 50), "values": values}));
            format!("{:#}\n", json!({"rows": rows.collect::<Vec<_>>()}))
        }
    };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// `pgbaton publish` with a record and a command.
fn publisher(options: &Options, cluster: &Cluster, zookeeper: &ZooKeeper, directory: &TempDir) -> Outcome<Process> {
    let user = OsUser::for_servers()?;
    let sections = format!(
        "scope: test\n{}publish:\n  - zookeeper: {{hosts: '{}', path: {PATH}}}\nevents:\n  command: 'echo %a >> {}'\n  only: standby_promote\n  outbox: {}\n",
        cluster.client_section(),
        zookeeper.address(),
        directory.path().join("told").display(),
        directory.path().join("outbox").display(),
    );
    let config = directory.file("publish.yml", &sections, &user)?.display().to_string();
    let launch =
        Launch::new(&options.pgbaton, options.work_dir.join("publish.log")).args(["publish", &config, "--watch"]);
    // The log is made by whoever runs the bench, the rest is the servers' user's.
    Ok(Process::start(&launch.user(&user))?)
}

/// The value below which `percent` of the others are; the upper one of two in the middle.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Tells the person at the terminal how far it is; standard output is for the result.
fn note(line: &str) {
    // Losing it is right: the result does not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
