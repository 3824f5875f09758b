//! Development tasks: `cargo xtask TASK`. The Makefile and `.ci/run` call nothing else.
//!
//! A task prints what it runs, runs it, and ends with exit code 1 when anything failed. Nothing here knows how a
//! cluster works: tests, the demo and the bench are programs of their own that a task builds and starts.

mod bench;
mod checks;
mod demo;
mod leftovers;
mod newer;
mod run;
mod setup;
mod sim;
mod test;
mod tidy;
mod trials;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of pgbaton", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine (Debian packages; no server is started by it)
    Setup(setup::Options),
    /// Check everything, change nothing: format, clippy, tests, documentation, tidy, simulator
    Verify(verify::Options),
    /// Format the code and apply clippy's suggestions
    Fix,
    /// Run the simulator; the arguments are its own (`--seeds N`, `--seed S`, `--bug NAME`)
    Sim(sim::Options),
    /// Check the rules of the repository that no compiler knows
    Tidy,
    /// What `make test` runs: everything, the demo included; the last line counts it
    Test,
    /// Measure switchover and failover, pgbaton and Patroni side by side (as root)
    Bench(bench::Options),
    /// Hurt real clusters at random instants and look for what was lost (switchover, failover, split-brain, store)
    Trials(trials::Options),
    /// Run the tests of PgBouncer with the next Debian release's (fetched, not installed)
    Newer,
    /// Build pgbaton and run its demo
    Demo(demo::Options),
    /// Stop the demo's cluster
    DemoStop(demo::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup(options) => setup::run(&options),
        Task::Verify(options) => verify::run(&options),
        Task::Fix => verify::fix(),
        Task::Sim(options) => sim::run(&options),
        Task::Tidy => tidy::run(),
        Task::Test => test::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Trials(options) => trials::run(&options),
        Task::Newer => newer::run(),
        Task::Demo(options) => demo::run(&options),
        Task::DemoStop(options) => demo::stop(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            run::complain(&failure);
            ExitCode::FAILURE
        }
    }
}
