//! What a member consists of: guard and agent, told apart by the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Failure;

/// The name that all processes have; what follows it tells them apart in `ps`.
const NAME: &str = "pgbaton";

/// Tells the agent from the command that becomes the guard.
const UNDER_GUARD: &str = "--under-guard";

/// How long an agent that was told to end may take before everything is killed: a shutdown checkpoint of a large server on a
/// slow disk takes minutes. A service manager has its own, shorter limit.
const STOP_TIMEOUT: Duration = Duration::from_mins(10);

/// Runs the guard or the agent, if the command line is theirs.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let first = words.next()?;
    if first == *"guard" {
        return Some(guard(words.next()));
    }
    let under_guard = first == *"agent" && words.next()? == *UNDER_GUARD;
    under_guard.then(|| {
        let options = pgbaton_agent::Options { config: words.next().map(PathBuf::from) };
        ExitCode::from(pgbaton_agent::run(&options))
    })
}

/// Is the process that ends pauses of PgBouncer, if the command line is its.
pub(crate) fn watch_pauses_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != *pgbaton_pooler::WATCHER {
        return None;
    }
    pgbaton_agent::logging::start(pgbaton_config::LogLevel::Info);
    let watched = pgbaton_pooler::watch_stdin();
    pgbaton_agent::logging::finish();
    Some(match watched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::complain(&Failure::because("nobody ends pauses", error).message().unwrap_or_default());
            ExitCode::FAILURE
        }
    })
}

/// Checks the configuration, so that a mistake is shown at once and by this process, then becomes the guard. Returns only
/// on failure.
pub(crate) fn become_guard(config: Option<&Path>) -> Failure {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    if let Err(error) = pgbaton_config::load(config, &environment) {
        return Failure::Config(error);
    }
    let mut words = vec![OsString::from(NAME), OsString::from("guard")];
    if let Some(config) = config {
        match std::path::absolute(config) {
            Ok(config) => words.push(config.into_os_string()),
            Err(error) => return Failure::because(format!("cannot find {}", config.display()), error),
        }
    }
    Failure::because("cannot become the guard", pgbaton_guard::become_guard(&words))
}

fn guard(config: Option<OsString>) -> ExitCode {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut arguments: Vec<OsString> = [NAME, "agent", UNDER_GUARD].map(OsString::from).to_vec();
    arguments.extend(config);
    let options = pgbaton_guard::Options { program, arguments, stop_timeout: STOP_TIMEOUT };
    match pgbaton_guard::run(&options) {
        // The agent has said why.
        Ok(code) => ExitCode::from(u8::from(code != 0)),
        Err(error) => {
            crate::complain(&Failure::because("the guard cannot run", error).message().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
