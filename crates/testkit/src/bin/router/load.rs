//! pgbench.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgbaton_testkit::cluster::{SUPERUSER, SUPERUSER_PASSWORD};

use crate::Outcome;
use crate::balancer::Balancer;

/// What one load gave.
pub(crate) struct Load {
    pub(crate) per_second: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// Processor time that what is in between has taken for a transaction, in microseconds; none where there is nothing.
    pub(crate) own_micros: Option<f64>,
}

/// Fills the server's tables.
pub(crate) fn prepare(bin_dir: &Path, at: SocketAddr) -> Outcome {
    run(client(bin_dir, "pgbench", at).args(["--initialize", "--quiet", "--scale=10"])).map(drop)
}

/// Asks the server something.
pub(crate) fn ask(balancer: &Balancer) -> Outcome {
    run(client(&balancer.bin_dir, "psql", balancer.at).args(["--no-psqlrc", "--command=SELECT 1"])).map(drop)
}

/// Reads by primary key on sessions that stay.
pub(crate) fn select(balancer: &mut Balancer, clients: usize, time: Duration) -> Outcome<Load> {
    // Each twentieth is logged: the others would cost pgbench, and the disk, what the ways are compared by.
    pgbench(balancer, clients, time, &["--protocol=prepared", "--sampling-rate=0.05"])
}

/// A session for each transaction.
pub(crate) fn connect(balancer: &mut Balancer, clients: usize, time: Duration) -> Outcome<Load> {
    pgbench(balancer, clients, time, &["--connect"])
}

fn pgbench(balancer: &mut Balancer, clients: usize, time: Duration, more: &[&str]) -> Outcome<Load> {
    let directory = tempfile::tempdir()?;
    let prefix = directory.path().join("latency");
    let before = balancer.processor_seconds()?;
    let text = run(client(&balancer.bin_dir, "pgbench", balancer.at)
        .args(["--select-only", "--no-vacuum", "--jobs=2", "--log"])
        .arg(format!("--log-prefix={}", prefix.display()))
        .arg(format!("--client={clients}"))
        .arg(format!("--time={}", time.as_secs()))
        .args(more))
    .map_err(|error| format!("{error}; what is in between has said: {}", balancer.words()))?;
    let used = balancer.processor_seconds()?.zip(before).map(|(after, before)| after - before);
    let number = |name: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name} of pgbench's"))?;
        Ok::<f64, Box<dyn Error + Send + Sync>>(line.split([' ', '/']).next().unwrap_or_default().parse()?)
    };
    let per_second = number("tps = ")?;
    let transactions = number("number of transactions actually processed: ")?;
    let mut micros: Vec<u64> = Vec::new();
    for file in fs::read_dir(directory.path())? {
        // client, transaction, latency in microseconds, ... (pgbench, "Per-Transaction Logging").
        let text = fs::read_to_string(file?.path())?;
        micros.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    micros.sort_unstable();
    let at = (micros.len() * 99 / 100).min(micros.len().saturating_sub(1));
    let p99 = Duration::from_micros(*micros.get(at).ok_or("pgbench has logged nothing")?);
    let own_micros = used.map(|seconds| seconds / transactions * 1e6);
    Ok(Load { per_second, p99: p99.as_secs_f64() * 1000.0, own_micros })
}

fn client(bin_dir: &Path, program: &str, at: SocketAddr) -> Command {
    let mut command = Command::new(bin_dir.join(program));
    command.env("PGHOST", at.ip().to_string()).env("PGPORT", at.port().to_string()).env("PGUSER", SUPERUSER);
    command.env("PGPASSWORD", SUPERUSER_PASSWORD).env("PGDATABASE", "postgres");
    command
}

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
