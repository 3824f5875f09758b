//! The bench: installs what it needs, builds both programs optimised, and hands it its arguments.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::run::{self, Outcome, failure, say};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed to the bench as they are; `cargo xtask bench -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `cargo xtask bench ...`: replaces this process by the bench, so that Ctrl-C reaches it and nothing else.
pub(crate) fn run(options: &Options) -> Outcome {
    setup::ensure(setup::Purpose::Bench)?;
    if !run::is_root() {
        return Err(failure!("the bench makes network namespaces and needs root: run `sudo make bench`"));
    }
    run::run(&mut run::cargo(&[
        "build",
        "--release",
        "--package",
        "pgbaton",
        "--package",
        "pgbaton-testkit",
        "--bins",
    ]))?;
    let release = run::target_dir().join("release");
    let mut bench = Command::new(release.join("pgbaton-bench"));
    bench.arg("--work-dir").arg(run::target_dir().join("bench")).arg("--pgbaton").arg(release.join("pgbaton"));
    bench.args(&options.arguments);
    say(&format!("$ {}", run::show(&bench)));
    Err(failure!("cannot start the bench: {}", bench.exec()))
}
