//! Safety trials on real clusters: builds both programs and hands over the arguments.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::run::{self, Outcome, failure};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed to the trials as they are; `cargo xtask trials -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `cargo xtask trials ...`: replaces this process by the trials, so that Ctrl-C reaches them and nothing else. Not optimised: a
/// trial's assertions are worth more than its speed, and PostgreSQL does most of the work.
pub(crate) fn run(options: &Options) -> Outcome {
    setup::ensure(setup::Purpose::Test)?;
    // Cargo writes to standard error; standard output is for the result alone, which a program may read.
    let mut build = run::cargo(&["build", "--package", "pgbaton", "--package", "pgbaton-testkit", "--bins"]);
    if !build.status().is_ok_and(|status| status.success()) {
        return Err(failure!("`{}` failed", run::show(&build)));
    }
    let binaries = run::target_dir().join("debug");
    let mut trials = Command::new(binaries.join("pgbaton-trials"));
    trials.args(&options.arguments).arg("--pgbaton").arg(binaries.join("pgbaton"));
    Err(failure!("cannot start the trials: {}", trials.exec()))
}
