//! Safety trials on real clusters: builds both programs and hands over the arguments.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::run::{self, Outcome, failure, say};
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
    run::run(&mut run::cargo(&["build", "--package", "pgbaton", "--package", "pgbaton-testkit", "--bins"]))?;
    let built = run::target_dir().join("debug");
    let mut trials = Command::new(built.join("pgbaton-trials"));
    trials.args(&options.arguments).arg("--pgbaton").arg(built.join("pgbaton"));
    say(&format!("$ {}", run::show(&trials)));
    Err(failure!("cannot start the trials: {}", trials.exec()))
}
