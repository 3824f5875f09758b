//! `verify`: the gate before a commit, which changes nothing; `fix`: what can be repaired by a program.

use std::process::Command;

use crate::checks::Checks;
use crate::leftovers::Scratch;
use crate::run::{self, Outcome};
use crate::{setup, sim, tidy};

/// Seeds in `verify --fast`: a few seconds also with a build that is not optimised.
const SEEDS_FAST: u32 = 200;

/// Seeds in `verify` and in `make test`: below a minute on two cores; the packages that it runs are optimised in every build.
pub(crate) const SEEDS: u32 = 2000;

/// Packages whose integration tests start real servers, or processes that are killed in loops: `--fast` leaves them
/// out, their unit tests included it runs.
const SLOW_PACKAGES: [&str; 6] =
    ["pgbaton", "pgbaton-agent", "pgbaton-guard", "pgbaton-postgres", "pgbaton-store-embedded", "pgbaton-testkit"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Below three minutes: without real servers, and 200 seeds
    #[arg(long)]
    fast: bool,
}

/// `cargo xtask verify [--fast]`.
pub(crate) fn run(options: &Options) -> Outcome {
    let scratch = Scratch::new()?;
    let mut checks = Checks::begin();
    if options.fast {
        source(&mut checks);
        checks.count_tests("tests without servers", scratch.mark(&mut fast_tests()));
        checks.count("simulator", || sim::seeds("dev", SEEDS_FAST));
    } else {
        setup::ensure(setup::Purpose::Test)?;
        source(&mut checks);
        everything(&mut checks, &scratch);
    }
    checks.count("nothing left behind", || scratch.check());
    checks.close()
}

/// The checks that only read the source.
pub(crate) fn source(checks: &mut Checks) {
    checks.count("format", || run::run(&mut run::cargo(&["fmt", "--all", "--check"])));
    checks.count("tidy", tidy::run);
    checks.count("clippy", || {
        run::run(&mut run::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
}

/// All tests, the documentation and the simulator.
pub(crate) fn everything(checks: &mut Checks, scratch: &Scratch) {
    checks.count_tests("tests", scratch.mark(&mut all_tests()));
    checks.count_tests(
        "documentation's examples",
        scratch.mark(&mut run::cargo(&["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"])),
    );
    checks.count("documentation", || {
        let mut command = run::cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        run::run(command.env("RUSTDOCFLAGS", "-D warnings"))
    });
    checks.count("simulator", || sim::seeds("dev", SEEDS));
}

/// `cargo xtask fix`.
pub(crate) fn fix() -> Outcome {
    run::run(&mut run::cargo(&["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace", "--all-targets"]))?;
    run::run(&mut run::cargo(&["fmt", "--all"]))
}

fn all_tests() -> Command {
    if nextest() {
        run::cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        run::cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
    }
}

/// Unit tests of all packages, and the integration tests of those that start no server.
fn fast_tests() -> Command {
    if nextest() {
        let slow = SLOW_PACKAGES.map(|name| format!("package(={name})")).join(" | ");
        let mut command = run::cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--filterset"]);
        command.arg(format!("not (kind(test) & ({slow}))"));
        return command;
    }
    // Cargo's own runner cannot mix; it runs the unit tests of all packages here.
    run::cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins"])
}

/// cargo-nextest where it is installed; a machine without it needs nothing but cargo.
fn nextest() -> bool {
    run::has_program("cargo-nextest")
}
