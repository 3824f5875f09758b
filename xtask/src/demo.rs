//! The demo: builds pgbaton and starts `pgbaton demo`; and, as a check of `make test`, runs it to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::leftovers::Scratch;
use crate::run::{self, Outcome, failure};
use crate::setup;

/// Seconds that a whole demo may take as a check, also on a busy machine; in peace it takes about one minute.
const DEMO_LIMIT_SECONDS: u32 = 300;

/// The user without rights that the second demo of a test run by root runs as.
const UNPRIVILEGED_USER: &str = "nobody";
const UNPRIVILEGED_GROUP: &str = "nogroup";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo's build profile
    #[arg(long, default_value = "release")]
    profile: String,
    /// Passed to `pgbaton demo` as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// `make demo`: replaces this process by the demo, so that Ctrl-C reaches the demo and nothing else.
pub(crate) fn run(options: &Options) -> Outcome {
    setup::ensure(setup::Purpose::Demo)?;
    start(options, &[])
}

/// `make demo-stop`.
pub(crate) fn stop(options: &Options) -> Outcome {
    start(options, &["--stop"])
}

fn start(options: &Options, arguments: &[&str]) -> Outcome {
    let mut demo = Command::new(build(&options.profile)?);
    demo.arg("demo").args(arguments).args(&options.arguments);
    Err(failure!("cannot start the demo: {}", demo.exec()))
}

/// Builds the binary and says where it is.
pub(crate) fn build(profile: &str) -> Outcome<PathBuf> {
    run::run(&mut run::cargo(&["build", "--profile", profile, "--package", "pgbaton", "--bin", "pgbaton"]))?;
    // Cargo's one irregular name: profile `dev` builds into `debug`.
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(run::target_dir().join(directory).join("pgbaton"))
}

/// Runs the demo to its end as the user who runs the tests.
pub(crate) fn check_as_self(binary: &Path, scratch: &Scratch) -> Outcome {
    let mut command = Command::new("timeout");
    scratch.mark(&mut command);
    check(binary, command)
}

/// Runs the demo to its end as a user without any rights, from a copy of the binary that this user can read: the
/// build directory may be below root's home.
pub(crate) fn check_unprivileged(binary: &Path, scratch: &Scratch) -> Outcome {
    let home = scratch.path().join("unprivileged");
    let cannot = |error: std::io::Error| failure!("cannot prepare {}: {error}", home.display());
    fs::create_dir(&home).map_err(cannot)?;
    let copy = home.join("pgbaton");
    fs::copy(binary, &copy).map_err(cannot)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
    run::output(Command::new("chown").args(["-R", &format!("{UNPRIVILEGED_USER}:{UNPRIVILEGED_GROUP}")]).arg(&home))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", UNPRIVILEGED_USER, "--regid", UNPRIVILEGED_GROUP, "--clear-groups", "timeout"]);
    scratch.mark(&mut command).env("HOME", &home).env("TMPDIR", &home).current_dir(&home);
    let checked = check(&copy, command);
    let removed = fs::remove_dir_all(&home).map_err(cannot);
    checked.and(removed)
}

fn check(binary: &Path, mut runner: Command) -> Outcome {
    let help = Command::new(binary).args(["demo", "--help"]).stdin(Stdio::null()).output();
    let help = help.map_err(|error| failure!("cannot run {}: {error}", binary.display()))?;
    if !help.status.success() || help.stdout.is_empty() {
        return Err(failure!("{} has no command `demo`", binary.display()));
    }
    runner.args(["--kill-after=30", &DEMO_LIMIT_SECONDS.to_string()]).arg(binary).arg("demo");
    runner.env("DEMO_EXIT", "1").stdin(Stdio::null());
    run::run(&mut runner)
}
