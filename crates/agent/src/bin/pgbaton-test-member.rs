//! A member for the tests of this package: guard and agent in one small binary, told apart by the first word.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let config = words.last().cloned().unwrap_or_default();
    if words.get(1).is_some_and(|word| word == "agent") {
        return ExitCode::from(pgbaton_agent::run(&pgbaton_agent::Options { config: Some(PathBuf::from(config)) }));
    }
    let options = pgbaton_guard::Options {
        program: std::env::current_exe().unwrap_or_default(),
        arguments: vec!["pgbaton".into(), "agent".into(), config],
        stop_timeout: Duration::from_secs(60),
    };
    ExitCode::from(pgbaton_guard::run(&options).unwrap_or(1))
}
