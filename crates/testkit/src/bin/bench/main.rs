//! The bench: how long nobody can write when a primary changes, for pgbaton and for Patroni, side by side.
//!
//! Three hosts in network namespaces, a real disk, fsync on. A writer commits every 5 ms to whichever of the three
//! addresses accepts it; the figure is the longest time between two commits around the event. Every host's processes
//! run below a process that adopts orphans, so that killing a host is complete. Started by `cargo xtask bench`; needs root.

mod cluster;
mod deadline;
mod events;
mod footprint;
mod http;
mod patroni;
mod pgbaton;
mod report;
mod servers;
mod store_leader;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pgbaton_testkit::figures::{Outcome, end, note};
use pgbaton_testkit::{Network, host};

use cluster::Cluster;
use events::Event;
use report::{Format, Report};
use system::{System, Variant};

#[derive(Parser)]
#[command(
    name = "cargo xtask bench --",
    about = "Switchover and failover of pgbaton and Patroni, measured side by side"
)]
struct Options {
    /// Rounds of each measurement; the median is what counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which systems to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["pgbaton", "patroni"])]
    systems: Vec<SystemName>,
    /// Only these configurations, by name
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Only these events
    #[arg(long, value_enum, value_delimiter = ',')]
    events: Vec<Event>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Seconds that a cluster runs before its memory and processor time are measured, and over which they are
    #[arg(long, default_value_t = 60)]
    footprint_seconds: u64,
    /// Rounds of the lease's deadline, without and with real-time scheduling: K against what happens. 0 leaves them out, and so does a
    /// choice of events or configurations
    #[arg(long, default_value_t = 20)]
    deadline_rounds: usize,
    /// Where clusters, logs and Patroni's programs are; on a real disk, and open to the user postgres
    #[arg(long)]
    work_dir: PathBuf,
    /// The pgbaton to measure
    #[arg(long)]
    pgbaton: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SystemName {
    Pgbaton,
    Patroni,
}

fn main() -> ExitCode {
    if let Some(code) = host::run_if_asked() {
        return code;
    }
    end(measure(&Options::parse()))
}

fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let work = options.work_dir.canonicalize()?;
    let mut report = Report::default();
    for name in &options.systems {
        let system: Box<dyn System> = match name {
            SystemName::Pgbaton => Box::new(pgbaton::Pgbaton::new(&options.pgbaton)?),
            SystemName::Patroni => Box::new(patroni::Patroni::install(&work)?),
        };
        for variant in system.variants() {
            if options.variants.is_empty() || options.variants.iter().any(|name| *name == variant.name) {
                measure_variant(options, &work, system.as_ref(), &variant, &mut report)?;
            }
        }
    }
    let all = options.events.is_empty() && options.variants.is_empty();
    if options.deadline_rounds > 0 && all && options.systems.contains(&SystemName::Pgbaton) {
        report.deadlines = deadline::measure(&options.pgbaton, options.deadline_rounds)?;
    }
    report.print(options.format)
}

/// Each round begins with a cluster made from nothing and goes through the variant's events one after the other.
fn measure_variant(
    options: &Options,
    work: &std::path::Path,
    system: &dyn System,
    variant: &Variant,
    report: &mut Report,
) -> Outcome {
    let logs = work.join("logs");
    let wanted: Vec<Event> = variant
        .events
        .iter()
        .copied()
        .filter(|event| options.events.is_empty() || options.events.contains(event))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let name = system.name().split(' ').next().unwrap_or_default();
    for round in 1..=options.rounds {
        let network = Network::new(cluster::HOSTS)?;
        let mut cluster = Cluster::new(work, system, variant, &network)?;
        if round == 1 {
            report.configuration(system.name(), variant, &cluster.configuration());
        }
        for event in Event::in_order(&wanted) {
            // Memory and processor time hardly differ from round to round and take minutes.
            if event == Event::Footprint && round > 1 {
                continue;
            }
            let measured = events::measure(event, &mut cluster, options.footprint_seconds);
            cluster.keep_logs(&logs.join(format!(
                "{}-{}-{round}",
                name.to_lowercase(),
                variant.name.replace(' ', "-")
            )))?;
            for sample in measured? {
                note(&format!("{} {} round {round}: {sample}", system.name(), variant.name));
                report.add(system.name(), variant, &sample);
            }
        }
        cluster.stop()?;
    }
    Ok(())
}
