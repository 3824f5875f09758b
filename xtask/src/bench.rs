//! The benches: install what they need, build the programs optimised, and hand a bench its arguments.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::run::{self, Outcome, failure, say};
use crate::setup;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure; all, if nothing is said
    #[arg(value_enum)]
    what: Option<What>,
    /// Passed to the bench as they are; `cargo xtask bench clusters -- --help` lists them
    #[arg(last = true, requires = "what")]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Clusters, beside Patroni's; needs root
    Clusters,
    /// The embedded store, beside a real etcd
    Store,
    /// The router, beside HAProxy
    Router,
    /// What clients notice of switchovers
    Clients,
    /// How long a switchover takes to be published
    Publish,
    /// The virtual address; needs root
    Address,
}

/// `cargo xtask bench ...`: replaces this process by the bench, so that Ctrl-C reaches it and nothing else.
pub(crate) fn run(options: &Options) -> Outcome {
    setup::ensure(setup::Purpose::Bench)?;
    if matches!(options.what, None | Some(What::Clusters | What::Address)) && !run::is_root() {
        return Err(failure!("this bench makes network namespaces and needs root: run `sudo make bench`"));
    }
    run::run(&mut run::cargo(&[
        "build",
        "--release",
        "--package",
        "pgbaton",
        "--package",
        "pgbaton-testkit",
        "--bins",
    ]))?;
    let what = match options.what {
        Some(what) => what,
        None => {
            run::run(&mut bench(What::Store, &[]))?;
            run::run(&mut bench(What::Router, &[]))?;
            run::run(&mut bench(What::Clients, &[]))?;
            run::run(&mut bench(What::Publish, &[]))?;
            run::run(&mut bench(What::Address, &[]))?;
            What::Clusters
        }
    };
    let mut bench = bench(what, &options.arguments);
    say(&format!("$ {}", run::show(&bench)));
    Err(failure!("cannot start the bench: {}", bench.exec()))
}

fn bench(what: What, arguments: &[String]) -> Command {
    let release = run::target_dir().join("release");
    let (program, directory) = match what {
        What::Clusters => ("pgbaton-bench", "bench"),
        What::Store => ("pgbaton-store-bench", "bench-store"),
        What::Router => ("pgbaton-router-bench", "bench-router"),
        What::Clients => ("pgbaton-clients-bench", "bench-clients"),
        What::Publish => ("pgbaton-publish-bench", "bench-publish"),
        What::Address => ("pgbaton-address-bench", "bench-address"),
    };
    let mut bench = Command::new(release.join(program));
    bench.arg("--work-dir").arg(run::target_dir().join(directory)).arg("--pgbaton").arg(release.join("pgbaton"));
    bench.args(arguments);
    bench
}
