//! The simulator: builds it and hands it its arguments.

use crate::run::{self, Outcome};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed to the simulator as they are; `cargo xtask sim -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `cargo xtask sim ...`. Optimised: the simulator's worth is in the number of runs.
pub(crate) fn run(options: &Options) -> Outcome {
    let arguments: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    simulate("release", &arguments)
}

/// Runs seeds 0 to `seeds` and fails if an invariant is broken in any of them.
pub(crate) fn seeds(profile: &str, seeds: u32) -> Outcome {
    simulate(profile, &["--seeds", &seeds.to_string()])
}

fn simulate(profile: &str, arguments: &[&str]) -> Outcome {
    let mut command =
        run::cargo(&["run", "--quiet", "--profile", profile, "--package", "pgbaton-sim", "--bin", "pgbaton-sim", "--"]);
    run::run(command.args(arguments))
}
