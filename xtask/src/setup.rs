//! Installing what is missing: Debian packages, and never a server that runs.
//!
//! Debian starts a server as soon as its package is installed. Two things prevent it: postgresql-common is told
//! beforehand not to create a cluster, and `policy-rc.d` forbids every start while packages are installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, Outcome, failure, say};

/// Where Debian's PostgreSQL packages put the programs: one directory for each major version.
const POSTGRES_ROOT: &str = "/usr/lib/postgresql";

/// The programs that a member needs.
const POSTGRES_PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_basebackup", "pg_rewind", "psql"];

/// Held while packages are installed, by root only; the kernel gives it free with its process.
const LOCK: &str = "/run/pgbaton-setup.lock";

/// Debian asks this script before it starts a service during installation; exit code 101 means "forbidden".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_FORBIDS: &str =
    "#!/bin/sh\n# Written by pgbaton's setup while it installs packages, removed right after.\nexit 101\n";

/// Read by `pg_createcluster` when a server package is installed.
const CLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";
const CLUSTER_DROP_IN: &str = "/etc/postgresql-common/createcluster.d/pgbaton.conf";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What this machine is to be used for
    #[arg(long = "for", value_enum, default_value = "test")]
    purpose: Purpose,
}

/// What the machine needs depends on what is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// `make demo`: PostgreSQL
    Demo,
    /// `make test`: PostgreSQL, network namespaces, etcd, `ZooKeeper`, a name server, HAProxy, nginx, PgBouncer, Barman, ssh, and what installs Patroni
    Test,
    /// `make bench`: the same
    Bench,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Test => "test",
            Self::Bench => "bench",
        }
    }
}

/// `cargo xtask setup --for ...`.
pub(crate) fn run(options: &Options) -> Outcome {
    ensure(options.purpose)?;
    say(&format!("Everything that `make {}` needs is installed.", options.purpose.name()));
    if options.purpose == Purpose::Test && !run::has_program("cargo-nextest") {
        say(
            "Optional: `cargo install cargo-nextest --locked` makes test runs faster; without it, cargo's own runner is used.",
        );
    }
    Ok(())
}

/// Installs what is missing for a purpose: as root, or with a sudo that asks nothing; otherwise says what to run.
pub(crate) fn ensure(purpose: Purpose) -> Outcome {
    let packages = missing(purpose);
    if packages.is_empty() {
        return Ok(());
    }
    say(&format!("Missing on this machine: {}", packages.join(", ")));
    if !run::has_program("apt-get") {
        return Err(failure!(
            "this machine has no apt-get; install these Debian packages' equivalents by hand: {}",
            packages.join(" ")
        ));
    }
    let own = std::env::current_exe().map_err(|error| failure!("cannot find this program's own path: {error}"))?;
    if run::is_root() {
        install(purpose)?;
    } else if sudo_asks_nothing() {
        run::run(Command::new("sudo").arg("--non-interactive").arg(&own).args(["setup", "--for", purpose.name()]))?;
    } else {
        return Err(failure!(
            "this needs root once; run this line and then the same command again:\n  sudo {} setup --for {}",
            own.display(),
            purpose.name()
        ));
    }
    let still = missing(purpose);
    if still.is_empty() { Ok(()) } else { Err(failure!("after installing, still missing: {}", still.join(", "))) }
}

/// The directory of the newest installed PostgreSQL that has all programs, if any.
pub(crate) fn postgres_bin_dir() -> Option<PathBuf> {
    newest_bin_dir(Path::new(POSTGRES_ROOT))
}

fn newest_bin_dir(root: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(root).ok()?.flatten();
    let mut complete: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| POSTGRES_PROGRAMS.iter().all(|program| bin.join(program).is_file()))
        .collect();
    complete.sort();
    complete.pop().map(|(_, bin)| bin)
}

fn missing(purpose: Purpose) -> Vec<&'static str> {
    let mut packages = Vec::new();
    let mut need = |present: bool, package| {
        if !present {
            packages.push(package);
        }
    };
    // Debian's metapackage: the distribution's own major version, 15 on Debian 12, with its client.
    need(postgres_bin_dir().is_some(), "postgresql");
    if purpose != Purpose::Demo {
        need(run::has_program("ip"), "iproute2");
        need(run::has_program("etcd"), "etcd-server");
        need(run::has_program("etcdctl"), "etcd-client");
        need(Path::new("/usr/sbin/dnsmasq").is_file(), "dnsmasq-base");
        need(Path::new("/usr/sbin/haproxy").is_file(), "haproxy");
        need(Path::new("/usr/sbin/pgbouncer").is_file(), "pgbouncer");
        need(Path::new("/usr/sbin/nginx").is_file(), "nginx-light");
        need(Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").is_file(), "libnginx-mod-stream");
        need(run::has_program("barman"), "barman");
        need(Path::new("/usr/sbin/keepalived").is_file(), "keepalived");
        need(run::has_program("ssh"), "openssh-client");
        need(Path::new("/usr/share/java/zookeeper.jar").is_file(), "zookeeper");
        need(run::has_program("java"), "default-jre-headless");
        need(Path::new("/usr/bin/python3").is_file(), "python3");
        need(Path::new("/usr/share/doc/python3-venv").is_dir(), "python3-venv");
    }
    packages
}

fn sudo_asks_nothing() -> bool {
    run::has_program("sudo")
        && Command::new("sudo").args(["--non-interactive", "true"]).output().is_ok_and(|out| out.status.success())
}

/// One run at a time: of two, the second would fail at apt's lists, and take the first one's policy for the administrator's.
fn install(purpose: Purpose) -> Outcome {
    let cannot = |error: std::io::Error| failure!("cannot lock {LOCK}: {error}");
    let lock = fs::File::create(LOCK).map_err(cannot)?;
    lock.lock().map_err(cannot)?;
    let packages = missing(purpose);
    if packages.is_empty() {
        return Ok(());
    }
    forbid_clusters()?;
    let _policy = StartForbidden::new()?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
        // A configuration file that is already there, ours included, stays: nobody is there to be asked.
        command.args(["--quiet", "--yes", "-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    run::run(apt_get().arg("update"))?;
    run::run(apt_get().args(["--no-install-recommends", "install"]).args(packages))
}

/// Tells postgresql-common not to create a cluster: by its main file before it is installed, by a drop-in after.
fn forbid_clusters() -> Outcome {
    let path = if Path::new(CLUSTER_CONF).exists() { CLUSTER_DROP_IN } else { CLUSTER_CONF };
    let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
    let written = fs::create_dir_all(directory).and_then(|()| {
        let drop_in = "# Written by pgbaton's setup: its clusters are its own, a running 'main' is not wanted.\ncreate_main_cluster = false\n";
        // As Debian's own file does: later drop-ins are obeyed.
        let include = if path == CLUSTER_CONF { "include_dir '/etc/postgresql-common/createcluster.d'\n" } else { "" };
        fs::write(path, format!("{drop_in}{include}"))
    });
    written.map_err(|error| failure!("cannot write {path}: {error}"))
}

/// While this lives, no package starts a service. A policy of the administrator's own is set aside and put back.
struct StartForbidden {
    set_aside: Option<PathBuf>,
}

impl StartForbidden {
    fn new() -> Outcome<Self> {
        let cannot = |error: std::io::Error| failure!("cannot write {POLICY}: {error}");
        let own = Path::new(POLICY);
        let set_aside = own.exists().then(|| own.with_extension("d.before-pgbaton"));
        if let Some(aside) = &set_aside {
            fs::rename(own, aside).map_err(cannot)?;
        }
        let guard = Self { set_aside };
        fs::write(own, POLICY_FORBIDS).map_err(cannot)?;
        fs::set_permissions(own, fs::Permissions::from_mode(0o755)).map_err(cannot)?;
        Ok(guard)
    }
}

impl Drop for StartForbidden {
    fn drop(&mut self) {
        let restored = match &self.set_aside {
            Some(aside) => fs::rename(aside, POLICY),
            None => fs::remove_file(POLICY),
        };
        if let Err(error) = restored {
            run::complain(&failure!("{POLICY} still forbids every start of a service; remove it by hand: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_version_is_found_by_number() {
        let root = std::env::temp_dir().join(format!("pgbaton-setup-{}", std::process::id()));
        for (version, programs) in [("9", 5), ("15", 5), ("17", 4), ("bin", 5)] {
            let bin = root.join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in &POSTGRES_PROGRAMS[..programs] {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_bin_dir(&root), Some(root.join("15/bin")));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(newest_bin_dir(&root), None);
    }
}
