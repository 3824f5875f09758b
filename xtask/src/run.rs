//! Starting other programs: what every task needs.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// Why a task failed, in one sentence for the person at the terminal. Empty if that has been said already.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// The failures have been listed and counted; nothing may follow the count.
    pub(crate) const COUNTED: Self = Self(String::new());
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A failure with a formatted sentence.
macro_rules! failure {
    ($($argument:tt)*) => { $crate::run::Failure(format!($($argument)*)) };
}
pub(crate) use failure;

/// Writes a line for the person at the terminal to standard output.
pub(crate) fn say(line: &str) {
    let mut output = io::stdout().lock();
    // Losing it is right: a closed pipe (`| head`) is no reason to break off a task.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// Writes why the task failed to standard error.
pub(crate) fn complain(failure: &Failure) {
    if !failure.0.is_empty() {
        // Losing it is right: there is nowhere else to say it, and the exit code still does.
        let _ = writeln!(io::stderr().lock(), "error: {failure}");
    }
}

/// Cargo, the one that started this task, in the root of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Set by cargo for this task only; a nested cargo would otherwise think that it builds `xtask`.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO_BIN_NAME", "CARGO_CRATE_NAME"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command with this task's own output, after saying what it is.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let shown = show(command);
    say(&format!("$ {shown}"));
    let status = command.status().map_err(|error| failure!("cannot run `{shown}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(failure!("`{shown}` failed: {status}")) }
}

/// Runs a command, passes its output on and keeps it too: standard output and standard error in the order written.
pub(crate) fn run_and_keep(command: &mut Command) -> Outcome<(ExitStatus, String)> {
    let shown = show(command);
    say(&format!("$ {shown}"));
    let cannot = |error: io::Error| failure!("cannot run `{shown}`: {error}");
    let (reader, writer) = io::pipe().map_err(cannot)?;
    command.stdout(writer.try_clone().map_err(cannot)?).stderr(writer).stdin(Stdio::null());
    let mut child = command.spawn().map_err(cannot)?;
    // The command holds the pipe's writing ends; the copy that nobody closed would keep the loop below waiting.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut kept = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(cannot)?).into_owned();
        say(&line);
        kept.push_str(&line);
        kept.push('\n');
    }
    Ok((child.wait().map_err(cannot)?, kept))
}

/// The standard output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let shown = show(command);
    let output = command.output().map_err(|error| failure!("cannot run `{shown}`: {error}"))?;
    if !output.status.success() {
        return Err(failure!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && !word.contains([' ', '|', '&', '(', '"', '\'']);
        if plain { word.into_owned() } else { format!("'{word}'") }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether this task runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether a program of that name is on the PATH.
pub(crate) fn has_program(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&paths).chain(standard).any(|directory| directory.join(name).is_file())
}

/// The root of the workspace. By what cargo says now: work trees that share a target directory share this program, too.
pub(crate) fn root() -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// The directory that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET
        .get_or_init(|| match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => root().join(directory),
            None => root().join("target"),
        })
        .clone()
}

/// Seconds since this machine was started: for saying how long a step took.
pub(crate) fn uptime_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}
