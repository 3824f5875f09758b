//! The bench of what is published: how long after a new primary's first write a record in `ZooKeeper` names it, and a command on the event has run.
//!
//! Started by `cargo xtask bench publish`.

mod seen;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Programs};
use pgbaton_testkit::figures::{Figures, Format, LIMIT, Outcome, end, note};
use pgbaton_testkit::{HostProgram, Launch, OsUser, Process, TempDir, ZooKeeper, clock, wait};
use pgbaton_types::BootTime;
use seen::Seen;

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

fn main() -> ExitCode {
    end(measure(&Options::parse()))
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
    let mut figures = Figures::default();
    figures.add("first write on the new primary to a record in ZooKeeper", "ms", "200", records);
    figures.add("first write on the new primary to a command having run", "ms", "200", commands);
    figures.print(options.format)
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
