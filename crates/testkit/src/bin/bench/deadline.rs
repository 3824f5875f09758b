//! K, measured: how long after its lease's deadline a server that its agent no longer looks after still commits, and how long its
//! last process lives. The guard says a K and everything that is safe rests on it; here it is beside what happens.
//!
//! One member of the real binary under load, its agent frozen, in every other round its inner guard as well, so that the outer
//! one has to do it. The deadline is read from the timer of the guard that holds it, as the kernel shows it. Once as the guard is
//! without rights, once with real-time scheduling, which halves its K.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgbaton_sys::clock::boottime;
use pgbaton_sys::proctree::with_working_directory;
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Part, Programs, SUPERUSER};
use pgbaton_testkit::{HostProgram, wait};
use pgbaton_types::chain;
use rustix::process::setpriority_process;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls};

use crate::{Outcome, note};

/// Sessions of the rounds with many of them: each is a process to kill.
const MANY: usize = 250;

/// `max_connections`: room for these, for those that commit, and for those that look.
const SESSIONS: u32 = 300;

/// Sessions in a procedure that commits for ever without asking a client: what an orphaned backend would go on doing.
const PROCEDURES: usize = 4;

/// Commits of the client before the agent is frozen.
const COMMITS_BEFORE: u64 = 200;

/// Longest wait for a state: with a crash recovery, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(90);

/// Between two looks at the server's processes: short beside what is measured, long beside the look itself.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// The priority of the thread that looks, as of nice(1).
const AHEAD: i32 = -10;

/// The guard's timer must show the same deadline over this time: a renewal that was under way when the agent was frozen has arrived.
const SETTLED: Duration = Duration::from_millis(50);

/// Two readings of one deadline differ by less, in nanoseconds: the time between a reading and its clock.
const SAME_DEADLINE: u64 = 5_000_000;

/// K of a guard with real-time scheduling, in milliseconds, which it states when it has the right from its start (ARCHITECTURE.md, "The guard").
const K_REAL_TIME: u64 = 500;

/// `CLOCK_BOOTTIME`, as `/proc/PID/fdinfo` names it (`linux/time.h`).
const BOOTTIME_CLOCK: &str = "7";

/// What is done in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Scene {
    /// Idle sessions beside those that commit.
    idle: usize,
    /// The inner guard is frozen as well.
    guard_frozen: bool,
}

/// All scenes, one after the other.
const SCENES: [Scene; 4] = [
    Scene { idle: 0, guard_frozen: false },
    Scene { idle: MANY, guard_frozen: false },
    Scene { idle: 0, guard_frozen: true },
    Scene { idle: MANY, guard_frozen: true },
];

/// One round's figures, in milliseconds after the deadline.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    scene: Scene,
    /// The last commit that a client was told of or that a procedure made. Negative before the deadline.
    last_commit: f64,
    /// The end of the last process.
    last_process: f64,
}

/// All rounds, and the K that was stated.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Deadlines {
    /// K as it is stated, in milliseconds.
    pub(crate) stated_ms: u64,
    /// Whether the guards were scheduled in real time.
    pub(crate) real_time: bool,
    /// The rights that it lacks, by its own word.
    pub(crate) lacks: Vec<String>,
    /// The rounds.
    pub(crate) rounds: Vec<Round>,
}

/// Measures that many rounds without, and as many with real-time scheduling.
pub(crate) fn measure(pgbaton: &Path, rounds: usize) -> Outcome<Vec<Deadlines>> {
    Ok(vec![cluster_of_one(pgbaton, rounds, false)?, cluster_of_one(pgbaton, rounds, true)?])
}

fn cluster_of_one(pgbaton: &Path, rounds: usize, real_time: bool) -> Outcome<Deadlines> {
    let programs = Programs { pgbaton: pgbaton.to_owned(), host: HostProgram::own()? };
    let options = ClusterOptions { members: 1, max_connections: SESSIONS, ..ClusterOptions::default() };
    let mut cluster = Cluster::new(&programs, options)?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    let explained = cluster.rest(0, "GET", "/explain", "", Duration::from_secs(5))?.json();
    let stated_ms = explained.pointer("/lease/guard/kill_ms").and_then(serde_json::Value::as_u64);
    let caveats = explained["caveats"].as_array().cloned().unwrap_or_default();
    let caveats = caveats.iter().filter_map(serde_json::Value::as_str);
    let lacks = caveats.filter_map(|caveat| caveat.strip_prefix("the guard lacks a right: ")).map(str::to_owned);
    let stated_ms = stated_ms.ok_or_else(|| format!("no K in GET /explain: {explained}"))?;
    let mut all = Deadlines {
        stated_ms: if real_time { K_REAL_TIME } else { stated_ms },
        real_time,
        lacks: lacks.collect(),
        rounds: Vec::new(),
    };
    for number in 0..rounds {
        let scene = SCENES[number % SCENES.len()];
        let round = one(&cluster, scene, real_time)?;
        note(&format!("deadline round {}, real-time {real_time}: {round:?}", number + 1));
        all.rounds.push(round);
    }
    cluster.stop_member(0, LIMIT)?;
    Ok(all)
}

fn one(cluster: &Cluster, scene: Scene, real_time: bool) -> Outcome<Round> {
    cluster.wait_primary(LIMIT)?;
    let load = Load::begin(cluster, scene.idle)?;
    load.wait_for_commits()?;
    let guards = (single(cluster, Part::OuterGuard)?, single(cluster, Part::InnerGuard)?);
    if real_time {
        schedule_in_real_time(guards.0)?;
        schedule_in_real_time(guards.1)?;
    }
    cluster.freeze(0, Part::Agent)?;
    let deadline = settled_deadline(guards)?;
    if scene.guard_frozen {
        cluster.freeze(0, Part::InnerGuard)?;
    }
    // Of this thread alone: whoever looks shall not be late itself.
    setpriority_process(None, AHEAD)?;
    let gone = wait_for_end(&cluster.data_dir(0));
    setpriority_process(None, 0)?;
    let gone = gone?;
    let acknowledged = load.end();
    cluster.thaw(0, Part::Agent)?;
    cluster.wait_primary(LIMIT)?;
    // The newest row of a procedure tells when it was made, by the clock of the day.
    let rows = cluster.sql(0, "SELECT (extract(epoch FROM max(at)) * 1000000)::bigint FROM pgbaton_deadline")?;
    let newest = rows.first().and_then(|row| row.first()?.as_ref()?.parse::<i128>().ok()).ok_or("no row is there")?;
    let day = i128::try_from(std::time::UNIX_EPOCH.elapsed()?.as_nanos())? - i128::from(boottime());
    let committed = newest * 1000 - day;
    let last_commit = committed.max(i128::from(acknowledged));
    let after = |instant: i128| milliseconds(instant - i128::from(deadline));
    Ok(Round { scene, last_commit: after(last_commit), last_process: after(i128::from(gone)) })
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of some seconds")]
fn milliseconds(nanoseconds: i128) -> f64 {
    nanoseconds as f64 / 1_000_000.0
}

/// What the guard does by itself where it may (`LimitRTPRIO=1`): first in, first out, with priority 1, and not for its children.
fn schedule_in_real_time(pid: i32) -> Outcome {
    let done = Command::new("chrt").args(["--fifo", "--reset-on-fork", "--pid", "1", &pid.to_string()]).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("chrt: {}", said.trim()).into()) }
}

fn single(cluster: &Cluster, part: Part) -> Outcome<i32> {
    match cluster.pids(0, part)?[..] {
        [pid] => Ok(pid.as_raw_nonzero().get()),
        ref other => Err(format!("{part}: {other:?}").into()),
    }
}

/// Waits until no process works in the data directory; the moment at which the last one was seen to be gone.
fn wait_for_end(data_dir: &Path) -> Outcome<u64> {
    let limit = boottime() + u64::try_from(LIMIT.as_nanos())?;
    loop {
        let left = with_working_directory(data_dir)?;
        let now = boottime();
        if left.is_empty() {
            return Ok(now);
        }
        if now > limit {
            return Err(format!("the server outlives its lease: {left:?}").into());
        }
        // waits: between two looks; what is measured is when the last process is gone
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// The deadline that the inner guard holds once no renewal is under way any more.
fn settled_deadline(guards: (i32, i32)) -> Outcome<u64> {
    let (mut known, mut since) = (deadline(guards)?, boottime());
    let settled = u64::try_from(SETTLED.as_nanos())?;
    while boottime() - since < settled {
        // waits: between two readings of a timer
        std::thread::sleep(LOOK_PAUSE);
        let read = deadline(guards)?;
        if read.abs_diff(known) > SAME_DEADLINE {
            (known, since) = (read, boottime());
        }
    }
    Ok(known)
}

/// When the inner guard's own timer runs out. It inherits the outer one's, which has the same number in both and is left out.
fn deadline((outer, inner): (i32, i32)) -> Outcome<u64> {
    let inherited: BTreeSet<String> = timers(outer)?.into_iter().map(|(number, _)| number).collect();
    let now = boottime();
    let own: Vec<u64> = timers(inner)?
        .into_iter()
        .filter(|(number, left)| !inherited.contains(number) && *left > 0)
        .map(|(_, left)| now + left)
        .collect();
    match own[..] {
        [deadline] => Ok(deadline),
        _ => Err(format!("{} running timers of the inner guard, where one was expected", own.len()).into()),
    }
}

/// The timers of a process by the number of their descriptor, with the nanoseconds that are left (proc(5), `fdinfo` of timerfd).
fn timers(pid: i32) -> Outcome<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let entry = entry?;
        // A descriptor that was closed meanwhile is no timer.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(left) = timer_left(&text) {
            found.push((entry.file_name().to_string_lossy().into_owned(), left));
        }
    }
    Ok(found)
}

fn timer_left(fdinfo: &str) -> Option<u64> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    (field("clockid:")? == BOOTTIME_CLOCK).then_some(())?;
    let (seconds, nanoseconds) = field("it_value:")?.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some(seconds.trim().parse::<u64>().ok()? * 1_000_000_000 + nanoseconds.trim().parse::<u64>().ok()?)
}

/// Sessions that commit, and idle ones. They end with the server.
struct Load {
    runtime: Runtime,
    commits: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    why: Arc<Mutex<String>>,
    _idle: Vec<Client>,
}

impl Load {
    fn begin(cluster: &Cluster, idle: usize) -> Outcome<Self> {
        const PREPARE: &str = "CREATE TABLE IF NOT EXISTS pgbaton_deadline (at timestamptz); TRUNCATE pgbaton_deadline; \
             CREATE OR REPLACE PROCEDURE pgbaton_commit_for_ever() LANGUAGE plpgsql AS $$ BEGIN LOOP \
             INSERT INTO pgbaton_deadline VALUES (clock_timestamp()); COMMIT; END LOOP; END $$";
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let place = (cluster.socket_dir(0), cluster.postgres_port(0));
        let (commits, acknowledged) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (ended, why) = (Arc::<AtomicBool>::default(), Arc::<Mutex<String>>::default());
        let idle = runtime.block_on(async {
            let writer = connect(&place).await?;
            writer.batch_execute(PREPARE).await?;
            let mut sessions = Vec::new();
            for _ in 0..idle {
                sessions.push(connect(&place).await?);
            }
            for _ in 0..PROCEDURES {
                let session = connect(&place).await?;
                // It ends with its server.
                tokio::spawn(async move { session.batch_execute("CALL pgbaton_commit_for_ever()").await });
            }
            let shared = (Arc::clone(&commits), Arc::clone(&acknowledged), Arc::clone(&ended), Arc::clone(&why));
            tokio::spawn(async move {
                let (commits, acknowledged, ended, why) = shared;
                let error = loop {
                    match writer.batch_execute("INSERT INTO pgbaton_deadline VALUES (clock_timestamp())").await {
                        Ok(()) => {
                            acknowledged.store(boottime(), Ordering::SeqCst);
                            commits.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => break error,
                    }
                };
                *why.lock().unwrap_or_else(PoisonError::into_inner) = chain(&error);
                ended.store(true, Ordering::SeqCst);
            });
            Ok::<_, tokio_postgres::Error>(sessions)
        })?;
        Ok(Self { runtime, commits, acknowledged, ended, why, _idle: idle })
    }

    fn wait_for_commits(&self) -> Outcome {
        Ok(wait::until("commits before the agent is frozen", LIMIT, || {
            if self.ended.load(Ordering::SeqCst) {
                return Err(self.why.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
            let commits = self.commits.load(Ordering::SeqCst);
            if commits >= COMMITS_BEFORE { Ok(()) } else { Err(format!("{commits} commits")) }
        })?)
    }

    /// Ends it; when the client was last told of a commit.
    fn end(self) -> u64 {
        self.runtime.shutdown_background();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn connect((directory, port): &(PathBuf, u16)) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(directory).port(*port).user(SUPERUSER).dbname("postgres").application_name("pgbaton_deadline");
    let (client, connection) = config.connect(NoTls).await?;
    // It ends with the client or with the server.
    tokio::spawn(connection);
    Ok(client)
}

impl Deadlines {
    /// A few lines for the person at the terminal.
    pub(crate) fn pretty(&self) -> String {
        if self.rounds.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "\nafter the deadline of a lease whose agent is frozen; {} real-time scheduling K is {} ms\n{:58} {:>6} {:>26} {:>26}\n",
            if self.real_time { "with" } else { "without" },
            self.stated_ms,
            "",
            "rounds",
            "last commit: median, most",
            "last process: median, most",
        );
        let scenes: BTreeSet<Scene> = self.rounds.iter().map(|round| round.scene).collect();
        for scene in scenes {
            let of = |figure: fn(&Round) -> f64| {
                let rounds = self.rounds.iter().filter(|round| round.scene == scene);
                let values: Vec<f64> = rounds.map(figure).collect();
                let (median, most) = (crate::report::percentile(&values, 50), crate::report::percentile(&values, 100));
                (values.len(), format!("{median:.0} ms, {most:.0} ms"))
            };
            let ((rounds, commit), (_, process)) = (of(|round| round.last_commit), of(|round| round.last_process));
            let frozen = if scene.guard_frozen { "inner guard frozen too" } else { "inner guard alive" };
            let what = format!("{frozen}, {} sessions that commit, {} idle", PROCEDURES + 1, scene.idle);
            text.push_str(&format!("{what:58} {rounds:>6} {commit:>26} {process:>26}\n"));
        }
        for lack in self.lacks.iter().filter(|_| !self.real_time) {
            text.push_str(&format!("the guard lacked {lack}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::timer_left;

    #[test]
    fn a_timer_is_read_as_the_kernel_shows_it() {
        let text = "pos:\t0\nflags:\t02004002\nmnt_id:\t16\nino:\t1059\nclockid: 7\nticks: 0\nsettime flags: 01\n\
                    it_value: (3, 142857)\nit_interval: (0, 0)\n";
        assert_eq!(timer_left(text), Some(3_000_142_857));
        assert_eq!(timer_left(&text.replace("clockid: 7", "clockid: 1")), None);
        assert_eq!(timer_left("pos:\t0\nflags:\t02\n"), None);
    }
}
