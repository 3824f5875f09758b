//! Switchovers while pgbench writes through PgBouncer and the router.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, SUPERUSER, SUPERUSER_PASSWORD};
use pgbaton_testkit::pgbouncer::USER;
use pgbaton_testkit::router::Router;
use pgbaton_testkit::{Launch, OsUser, PgBouncer, Process, postgres, wait};

use crate::{Figures, LIMIT, Options, Outcome, note, switchover};

/// What pgbench is given for each switchover: about 1 s until all is well again, and as much on a machine that is busy.
const EACH: Duration = Duration::from_millis(2500);

pub(crate) fn run(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Outcome {
    let router = Router::start(&options.pgbaton, cluster, "", "")?;
    let database = format!(
        "app_rw = host=127.0.0.1 port={} dbname=postgres user={SUPERUSER} password={SUPERUSER_PASSWORD}",
        router.writes().port()
    );
    let pgbouncer = PgBouncer::start(&database, "")?;
    let _leader = lead(cluster, options, &pgbouncer)?;
    let primary = cluster.wait_primary(LIMIT)?;
    cluster.sql(primary, "CREATE TABLE IF NOT EXISTS counted (n int)")?;
    wait::until("the holder to know the PgBouncer", LIMIT, || {
        let answer = cluster.rest(primary, "GET", "/explain", "", LIMIT).map_err(|error| error.to_string())?;
        if answer.body.contains("/bench\"") { Ok(()) } else { Err(answer.body) }
    })?;
    let directory = tempfile::tempdir()?;
    let time = EACH * u32::try_from(options.switchovers)? + Duration::from_secs(5);
    let mut load = pgbench(options, &pgbouncer, directory.path(), time)?;
    wait::until("pgbench to write", LIMIT, || {
        let rows = cluster.sql(primary, "SELECT count(*) FROM counted").map_err(|error| error.to_string())?;
        let written = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
        if written.parse::<u64>().is_ok_and(|rows| rows > 1000) { Ok(()) } else { Err(written) }
    })?;
    let (mut took, mut asked) = (Vec::new(), Vec::new());
    for round in 1..=options.switchovers {
        asked.push(unix_micros());
        let (_, time) = switchover(cluster)?;
        took.push(time.as_secs_f64() * 1000.0);
        note(&format!("switchover {round}: answered after {:.0} ms", time.as_secs_f64() * 1000.0));
        cluster.wait_healthy(LIMIT)?;
        if load.try_wait()?.is_some() {
            return Err(format!("pgbench had ended after {round} switchovers").into());
        }
    }
    let output = load.wait_with_output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok())
    };
    let done = number("number of transactions actually processed: ").ok_or_else(|| format!("{text}{errors}"))?;
    // A client that lost its connection has failed as well; pgbench counts those apart.
    let aborted = errors.lines().filter(|line| line.contains("aborted")).count() as f64;
    let failed = number("number of failed transactions: ").unwrap_or(0.0) + aborted;
    let row = cluster.sql(cluster.wait_primary(LIMIT)?, "SELECT count(*) FROM counted")?;
    let kept: f64 = row[0][0].as_deref().unwrap_or_default().parse()?;
    figures.add("switchovers under pgbench", "", "", vec![took.len() as f64]);
    figures.add("until a switchover is answered", "ms", "", took);
    figures.add("transactions that pgbench counted", "", "", vec![done]);
    figures.add("rows that are missing", "", "0", vec![done - kept]);
    figures.add("transactions that failed", "", "0", vec![failed]);
    let Longest { latency, ended } = longest(directory.path())?;
    if let Some(round) = asked.iter().rposition(|asked| *asked <= ended) {
        let after = (ended - asked[round]) / 1000;
        note(&format!("the longest transaction ended {after} ms after switchover {} was asked for", round + 1));
    }
    figures.add("longest transaction", "ms", "below 1000", vec![latency as f64 / 1000.0]);
    Ok(())
}

/// Time of day, as pgbench's logs have it.
fn unix_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The process that leads the PgBouncer.
fn lead(cluster: &Cluster, options: &Options, pgbouncer: &PgBouncer) -> Outcome<Process> {
    let directory = pgbouncer.directory().display().to_string();
    let text = format!(
        "scope: test\n{}pgbouncer:\n  - {{name: bench, console: {}, writes: [app_rw], state_file: {directory}/state}}\n",
        cluster.client_section(),
        pgbouncer.console(),
    );
    let config = pgbouncer.directory().join("clients.yml");
    std::fs::write(&config, text)?;
    let launch = Launch::new(options.pgbaton.clone(), pgbouncer.directory().join("clients.log"));
    let launch = launch.args(["clients".to_owned(), config.display().to_string()]);
    Ok(Process::start(&launch.user(&OsUser::for_servers()?))?)
}

fn pgbench(options: &Options, pgbouncer: &PgBouncer, directory: &Path, time: Duration) -> Outcome<Child> {
    let script = directory.join("script");
    std::fs::write(&script, "INSERT INTO counted VALUES (1);\n")?;
    let logs = directory.join("logs");
    std::fs::create_dir(&logs)?;
    let mut pgbench = Command::new(postgres::bin_dir()?.join("pgbench"));
    pgbench.args(["--no-vacuum", "--max-tries=1", "--jobs=2", "--log"]);
    pgbench.arg(format!("--log-prefix={}", logs.join("latency").display()));
    pgbench.arg(format!("--client={}", options.clients)).arg(format!("--time={}", time.as_secs()));
    pgbench.arg("--file").arg(script).arg("--host=127.0.0.1").arg(format!("--port={}", pgbouncer.address().port()));
    pgbench.args(["--username", USER, "app_rw"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(pgbench.spawn()?)
}

/// A transaction, both in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Longest {
    latency: u64,
    /// Time of day.
    ended: u64,
}

/// The one with the longest latency in pgbench's logs.
fn longest(directory: &Path) -> Outcome<Longest> {
    let mut longest = Longest::default();
    for file in std::fs::read_dir(directory.join("logs"))? {
        // client, transaction, latency, script, seconds and microseconds of its end (pgbench, "Per-Transaction Logging").
        let text = std::fs::read_to_string(file?.path())?;
        let of = |line: &str| {
            let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
            Some(Longest { latency: *numbers.get(2)?, ended: numbers.get(4)? * 1_000_000 + numbers.get(5)? })
        };
        longest = longest.max(text.lines().filter_map(of).max().unwrap_or_default());
    }
    Ok(longest)
}
