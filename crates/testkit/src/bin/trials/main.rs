//! Safety trials: real members and real servers, hurt at random instants, and the question whether anything that was
//! acknowledged is gone or was acknowledged twice. Started by `cargo xtask trials`.
//!
//! A trial ends with exit code 1 when a promise was broken. Instants follow from `--seed`; what the machine makes of them
//! does not, so that a seed repeats the questions and not the answers.

mod failover;
mod load;
mod local_writer;
mod report;
mod split_brain;
mod store;
mod switchover;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgbaton_testkit::cluster::{Cluster, Programs};
use pgbaton_testkit::figures::{Outcome, note};
use pgbaton_testkit::{HostProgram, host};

use pgbaton_types::chain;
use report::{Format, Report};

#[derive(Parser)]
#[command(
    name = "cargo xtask trials --",
    about = "Real clusters hurt at random instants: is anything acknowledged lost?"
)]
struct Arguments {
    #[command(subcommand)]
    trial: Trial,
    /// The pgbaton on trial
    #[arg(long, global = true, default_value = "target/debug/pgbaton")]
    pgbaton: PathBuf,
    /// Where the random instants come from
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// How to print the result
    #[arg(long, global = true, value_enum, default_value = "pretty")]
    format: Format,
}

#[derive(Subcommand)]
enum Trial {
    /// Switchovers in clusters' first seconds and under load, some with a standby whose receiver is stopped
    Switchover(switchover::Options),
    /// SIGKILL to the primary's whole member under load
    Failover(failover::Options),
    /// Every part of a member frozen, killed, cut off, while each member's own clients go on committing (as root)
    SplitBrain(split_brain::Options),
    /// The store wiped, one member's directory lost, all members restarted in every order
    Store,
}

/// What every trial has.
struct Context {
    programs: Programs,
    seed: u64,
}

fn main() -> ExitCode {
    if let Some(code) = host::run_if_asked() {
        return code;
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            report.print(arguments.format);
            if report.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            note(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<Report> {
    let pgbaton = arguments.pgbaton.canonicalize();
    let pgbaton = pgbaton.map_err(|error| format!("no pgbaton at {}: {error}", arguments.pgbaton.display()))?;
    let context = Context { programs: Programs { pgbaton, host: HostProgram::own()? }, seed: arguments.seed };
    match &arguments.trial {
        Trial::Switchover(options) => switchover::run(&context, options),
        Trial::Failover(options) => failover::run(&context, options),
        Trial::SplitBrain(options) => split_brain::run(&context, options),
        Trial::Store => store::run(&context),
    }
}

/// Shows the members' logs when a step failed.
fn with_logs<T>(cluster: &Cluster, outcome: Outcome<T>) -> Outcome<T> {
    if outcome.is_err() {
        note(&cluster.log_ends());
    }
    outcome
}
