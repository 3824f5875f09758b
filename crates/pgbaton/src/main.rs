//! The pgbaton binary. Its first word decides what this process is, before any runtime, allocation of note or thread:
//! the guard must stay tiny.
//!
//! ```text
//! pgbaton agent CONFIG                 checks the configuration, becomes the guard
//! pgbaton guard CONFIG                 the guard: owns the postmaster, starts the agent
//! pgbaton agent --under-guard CONFIG   the agent
//! pgbaton witness CONFIG               a voter without a server
//! pgbaton router CONFIG                ports that lead to the primary, or to a standby
//! pgbaton list, switchover, ...        commands that ask members over REST
//! ```

mod cli;
mod clients;
mod commands;
mod demo;
mod publish;
mod render;
mod roles;

use std::process::ExitCode;

use clap::Parser;
use pgbaton_config::Wanted;

use crate::cli::{Command, Failure, Out, PgbatonArguments};

fn main() -> ExitCode {
    // The demo's and the tests' stand-in for a host is this program, too.
    if let Some(code) =
        roles::run_if_asked().or_else(roles::watch_pauses_if_asked).or_else(pgbaton_testkit::host::run_if_asked)
    {
        return code;
    }
    let arguments = match PgbatonArguments::try_parse() {
        Ok(arguments) => arguments,
        Err(shown) => {
            // The text is help or a wrong usage; that nobody reads it is no reason to fail differently.
            let _ = shown.print();
            return ExitCode::from(u8::from(shown.use_stderr()));
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                complain(&message);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: PgbatonArguments) -> Result<(), Failure> {
    let mut out = Out::new();
    match arguments.command {
        Command::Agent { config } => Err(roles::become_guard(config.as_deref())),
        Command::Witness { config } => match pgbaton_agent::witness(config.as_deref()) {
            0 => Ok(()),
            // It has said why.
            _ => Err(Failure::Said),
        },
        Command::Router { config } => clients::run(config.as_deref(), Wanted::Router),
        Command::Clients { config } => clients::run(config.as_deref(), Wanted::All),
        Command::Publish(options) => publish::run(&arguments.global, &options, &mut out),
        Command::Render(options) => render::run(&arguments.global, &options, &mut out),
        Command::Demo(options) => demo::run(&options, &mut out),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
            runtime.block_on(commands::run(arguments, &mut out))
        }
    }
}

/// Writes to standard error.
#[expect(clippy::print_stderr, reason = "the one place where failures are written")]
fn complain(message: &str) {
    eprintln!("{message}");
}
