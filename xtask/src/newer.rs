//! Tests with a newer version of a program than this machine's Debian has: that of the next release, unpacked beside everything else, not
//! installed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, Failure, Outcome, failure};
use crate::setup;

/// The release after the one that everything else here is from.
const RELEASE: &str = "trixie";
/// Where it is.
const MIRROR: &str = "http://deb.debian.org/debian";
/// By which apt knows that it is Debian's.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The variable by which tests find it, as `pgbaton_testkit::PgBouncer` has it.
const VARIABLE: &str = "PGBATON_TEST_PGBOUNCER";

/// `cargo xtask newer`: the tests of `PgBouncer` with the next release's.
pub(crate) fn run() -> Outcome {
    setup::ensure(setup::Purpose::Test)?;
    let directory = run::target_dir().join("newer");
    let program = unpacked(&directory, "pgbouncer", "usr/sbin/pgbouncer")?;
    let version = run::output(Command::new(&program).arg("--version"))?;
    run::say(version.lines().next().unwrap_or_default());
    let tests = ["test", "--package", "pgbaton", "--test", "clients", "--", "pgbouncer", "--test-threads=1"];
    run::run(run::cargo(&tests).env(VARIABLE, &program))
}

/// Fetches a package with all that it needs, unpacks it, and gives a program that starts `path` with the libraries beside it.
fn unpacked(directory: &Path, package: &str, path: &str) -> Outcome<PathBuf> {
    let root = directory.join("root");
    // Of one version alone.
    if root.exists() {
        fs::remove_dir_all(&root).map_err(|error| cannot(&root, &error))?;
    }
    let archives = fetched(&directory.join("apt"), package)?;
    for archive in fs::read_dir(&archives).map_err(|error| cannot(&archives, &error))? {
        let archive = archive.map_err(|error| cannot(&archives, &error))?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run::output(Command::new("dpkg-deb").arg("--extract").args([&archive, &root]))?;
        }
    }
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let listed = fs::read_dir(&libraries).map_err(|error| cannot(&libraries, &error))?;
    let mut loaders = listed.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("ld-linux"));
    let loader = loaders.next().ok_or_else(|| failure!("nothing in {} loads programs", libraries.display()))?.path();
    let (script, program) = (directory.join(package), root.join(path));
    let [loader, with, program] = [&loader, &libraries, &program].map(|path| path.display());
    let text = format!("#!/bin/sh\nexec '{loader}' --library-path '{with}' '{program}' \"$@\"\n");
    fs::write(&script, text).map_err(|error| cannot(&script, &error))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(|error| cannot(&script, &error))?;
    Ok(script)
}

/// Fetches a package with all that it needs, as if nothing were installed. Gives where the archives are.
fn fetched(apt: &Path, package: &str) -> Outcome<PathBuf> {
    let archives = apt.join("cache/archives");
    for directory in [apt.join("lists/partial"), archives.join("partial")] {
        fs::create_dir_all(&directory).map_err(|error| cannot(&directory, &error))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {MIRROR} {RELEASE} main\n");
    for (file, text) in [("status", ""), ("sources", &source)] {
        fs::write(apt.join(file), text).map_err(|error| cannot(apt, &error))?;
    }
    let places = [
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Etc::sourcelist", "sources"),
    ];
    // apt's own user may not write here.
    let others = ["Dir::Etc::sourceparts=-", "APT::Sandbox::User=root"].map(str::to_owned);
    let places = places.map(|(name, below)| format!("{name}={}", apt.join(below).display()));
    let apt_get = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(places.iter().chain(&others).flat_map(|place| ["-o", place])).args(["--quiet", "--yes"]);
        run::run(command.args(words))
    };
    apt_get(&["update"])?;
    apt_get(&["autoclean"])?;
    apt_get(&["--no-install-recommends", "--download-only", "install", package])?;
    Ok(archives)
}

fn cannot(what: &Path, error: &io::Error) -> Failure {
    failure!("cannot prepare {}: {error}", what.display())
}
