//! Runs the simulator: many seeds in parallel, or one seed with its trace.
//!
//! Exit code 0: every invariant held. 1: one was broken; the output names it, shows the end of the trace and says which
//! command shows all of it. 2: the command line is wrong.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use pgbaton_core::Bug;
use pgbaton_sim::{Outcome, run};

/// Lines of the trace that are shown when an invariant is broken.
const TRACE_TAIL: usize = 40;

/// Threads that run seeds: what the smallest machine that this is used on has.
const THREADS: usize = 2;

/// Runs clusters through simulated faults and checks that nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "pgbaton-sim")]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Run this seed only and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Put a known bug back, by its name.
    #[arg(long)]
    bug: Option<String>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pretty,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = io::stdout().lock();
    match simulate(&options, &mut out) {
        Ok(code) => code,
        Err(error) => {
            // With its output gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "pgbaton-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn simulate(options: &Options, out: &mut impl Write) -> io::Result<ExitCode> {
    let bug = match &options.bug {
        None => None,
        Some(name) => Some(find_bug(name)?),
    };
    match options.seed {
        Some(seed) => one(options, seed, bug, out),
        None => many(options, bug, out),
    }
}

fn find_bug(name: &str) -> io::Result<Bug> {
    let found = Bug::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug);
    found.ok_or_else(|| {
        let known: Vec<&str> = Bug::ALL.iter().map(|(known, _)| *known).collect();
        io::Error::other(format!("there is no known bug {name:?}; there are: {}", known.join(", ")))
    })
}

fn one(options: &Options, seed: u64, bug: Option<Bug>, out: &mut impl Write) -> io::Result<ExitCode> {
    let outcome = run(seed, bug, true);
    if options.format == Format::Json {
        writeln!(out, "{}", as_json(&outcome))?;
        return Ok(code(&outcome));
    }
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    match &outcome.violation {
        Some(violation) => writeln!(out, "seed {seed}: {violation}")?,
        None => writeln!(
            out,
            "seed {seed}: every invariant held for {} simulated seconds with {} grants of the lease",
            outcome.simulated_seconds, outcome.grants
        )?,
    }
    Ok(code(&outcome))
}

fn code(outcome: &Outcome) -> ExitCode {
    if outcome.violation.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    serde_json::json!({
        "seed": outcome.seed,
        "invariant": outcome.violation.as_ref().map(|violation| violation.invariant),
        "what": outcome.violation.as_ref().map(|violation| violation.what.clone()),
        "simulated_seconds": outcome.simulated_seconds,
        "grants": outcome.grants,
        "trace": outcome.trace,
    })
}

fn many(options: &Options, bug: Option<Bug>, out: &mut impl Write) -> io::Result<ExitCode> {
    #[allow(clippy::disallowed_methods, reason = "the time that people wait, not a lease's")]
    let began = Instant::now();
    let last = options.from.saturating_add(options.seeds);
    let sweep = Sweep::new(options.from, last, bug, io::stderr().is_terminal());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| sweep.work(began));
        }
    });
    sweep.clear_progress();
    let seconds = began.elapsed().as_secs_f64();
    let runs = sweep.runs.load(Ordering::Relaxed);
    let hours = sweep.simulated_seconds.load(Ordering::Relaxed) as f64 / 3600.0;
    let per_second = runs as f64 / seconds.max(0.001);
    let failed = sweep.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(seed) = failed else {
        match options.format {
            Format::Pretty => writeln!(
                out,
                "{runs} seeds from {}: every invariant held; {seconds:.1} s, {per_second:.0} seeds/s, {hours:.0} simulated hours",
                options.from
            )?,
            Format::Json => writeln!(
                out,
                "{}",
                serde_json::json!({"seeds": runs, "from": options.from, "failed": null, "seconds": seconds,
                    "simulated_hours": hours, "grants": sweep.grants.load(Ordering::Relaxed)})
            )?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let outcome = run(seed, bug, true);
    if options.format == Format::Json {
        writeln!(out, "{}", as_json(&outcome))?;
        return Ok(ExitCode::from(1));
    }
    let from = outcome.trace.len().saturating_sub(TRACE_TAIL);
    for line in &outcome.trace[from..] {
        writeln!(out, "{line}")?;
    }
    match &outcome.violation {
        Some(violation) => writeln!(out, "seed {seed} of {runs} that were run: {violation}")?,
        None => writeln!(out, "seed {seed}: the run cannot be had again")?,
    }
    let bug = options.bug.as_ref().map(|name| format!(" --bug {name}")).unwrap_or_default();
    writeln!(out, "again: cargo run -p pgbaton-sim -- --seed {seed}{bug}")?;
    Ok(ExitCode::from(1))
}

/// Seeds that are handed out to threads until one fails.
struct Sweep {
    from: u64,
    next: AtomicU64,
    last: u64,
    bug: Option<Bug>,
    /// Somebody watches at a terminal.
    progress: bool,
    /// The second at which progress was shown last.
    shown: AtomicU64,
    runs: AtomicU64,
    simulated_seconds: AtomicU64,
    grants: AtomicU64,
    failed: Mutex<Option<u64>>,
}

impl Sweep {
    fn new(from: u64, last: u64, bug: Option<Bug>, progress: bool) -> Self {
        Self {
            from,
            next: AtomicU64::new(from),
            last,
            bug,
            progress,
            shown: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            simulated_seconds: AtomicU64::new(0),
            grants: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    fn work(&self, began: Instant) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.last {
                return;
            }
            let outcome = run(seed, self.bug, false);
            let runs = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
            self.simulated_seconds.fetch_add(outcome.simulated_seconds, Ordering::Relaxed);
            self.grants.fetch_add(outcome.grants as u64, Ordering::Relaxed);
            if outcome.violation.is_some() {
                // Seeds below this one that are still running may fail, too: the lowest is reported.
                self.next.store(self.last, Ordering::Relaxed);
                let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *failed = Some(failed.map_or(seed, |lowest| lowest.min(seed)));
                return;
            }
            if self.progress {
                self.show_progress(runs, began.elapsed());
            }
        }
    }

    /// One line, written over itself at most once a second.
    fn show_progress(&self, runs: u64, elapsed: Duration) {
        let (second, seconds) = (elapsed.as_secs(), elapsed.as_secs_f64());
        if self.shown.fetch_max(second, Ordering::Relaxed) >= second {
            return;
        }
        let all = self.last - self.from;
        let per_second = runs as f64 / seconds;
        let left = (all - runs) as f64 / per_second;
        // Progress is a courtesy: a terminal that went away must not end the work.
        let _ = write!(io::stderr(), "\r\x1b[K{runs} of {all} seeds, {per_second:.0} seeds/s, {left:.0} s to go");
    }

    /// Leaves the line to the result.
    fn clear_progress(&self) {
        if self.progress && self.shown.load(Ordering::Relaxed) > 0 {
            // As above: nobody may be there to see it.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
