//! A host for tests whose own `main` belongs to the test harness: see `pgbaton_testkit::host`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Started by hand, without the hidden argument, there is nothing that it could do.
    pgbaton_testkit::host::run_if_asked().unwrap_or(ExitCode::FAILURE)
}
