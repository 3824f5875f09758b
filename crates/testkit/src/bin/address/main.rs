//! The bench of the virtual address: three members in network namespaces hand over again and again, and a client on another host that
//! knows nothing but the address says when it gets an answer of the new primary.
//!
//! Needs root. Started by `cargo xtask bench address`.

mod clients;

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clients::{Promoted, Reached};
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Place, Programs};
use pgbaton_testkit::{AddressWatch, HostProgram, wait};
use pgbaton_types::{BootTime, chain};

/// What can go wrong on the way to a figure; the text names it.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(60);
/// The section of each member.
const SECTION: &str = "  interface: eth0\n  addresses: [{network}.200/24, '{network6}::c8/64']\n";

#[derive(Parser)]
#[command(name = "cargo xtask bench address --", about = "How fast the virtual address moves")]
struct Options {
    /// How many switchovers
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Print every sample as JSON
    #[arg(long)]
    json: bool,
    /// Where logs are
    #[arg(long)]
    work_dir: PathBuf,
    /// The pgbaton to measure
    #[arg(long)]
    pgbaton: PathBuf,
}

/// Milliseconds of each round.
#[derive(Default)]
struct Samples {
    rows: Vec<(String, Vec<f64>)>,
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Outcome {
    std::fs::create_dir_all(&options.work_dir)?;
    let programs = Programs { pgbaton: options.pgbaton.clone(), host: HostProgram::at(&options.pgbaton) };
    let layout = ClusterOptions {
        place: Place::Namespaces,
        virtual_address: Some(SECTION.to_owned()),
        network_rights: true,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::new(&programs, layout)?;
    cluster.start_all()?;
    cluster.wait_healthy(LIMIT)?;
    let network = cluster.network().ok_or("the members are in no network")?;
    let addresses: [IpAddr; 2] = [network.address(200).into(), network.address6(200).into()];
    let namespaces: Vec<String> = network.hosts().map(|host| network.namespace(host)).collect();
    let watches = addresses.map(|address| AddressWatch::start(namespaces.clone(), address));
    let mut samples = Samples::default();
    for round in 1..=options.rounds {
        hand_over(&cluster, addresses, &watches, &mut samples)?;
        note(&format!("round {round}: {}", samples.last()));
        cluster.wait_healthy(LIMIT)?;
    }
    for watch in &watches {
        if let Some((one, other)) = watch.so_far().twice {
            return Err(format!("hosts {one} and {other} had the address at once").into());
        }
    }
    samples.print(options.json)
}

fn hand_over(cluster: &Cluster, addresses: [IpAddr; 2], watches: &[AddressWatch; 2], samples: &mut Samples) -> Outcome {
    let old = cluster.wait_primary(LIMIT)?;
    let new = (old + 1) % cluster.size();
    for watch in watches {
        wait::until("the address at the primary", LIMIT, || {
            let holders = watch.holders();
            if holders == [old] { Ok(()) } else { Err(format!("{holders:?}")) }
        })?;
    }
    let promoted = Promoted::start(cluster.servers()[new]);
    let port = cluster.postgres_port(new);
    let directory = cluster.data_dir(new).display().to_string();
    let reached = addresses.map(|address| Reached::start(SocketAddr::new(address, port), directory.clone()));
    let answer = cluster.switchover(old, old, Some(new))?;
    if answer.status != 200 {
        return Err(format!("the switchover failed: {answer:?}").into());
    }
    let role = promoted.wait()?;
    for (name, reached) in ["IPv4", "IPv6"].into_iter().zip(reached) {
        let (last, first) = reached.wait()?;
        samples.add(&format!("role change to first answer at the address, {name}"), role, first);
        samples.add(&format!("last answer of the old to first of the new primary, {name}"), last, first);
    }
    Ok(())
}

impl Samples {
    fn add(&mut self, what: &str, from: BootTime, to: BootTime) {
        // A client may see the new primary before the one that asks it directly; that is no time less than none.
        let millis = to.since(from).as_secs_f64() * 1000.0;
        match self.rows.iter_mut().find(|(name, _)| name == what) {
            Some((_, values)) => values.push(millis),
            None => self.rows.push((what.to_owned(), vec![millis])),
        }
    }

    fn last(&self) -> String {
        let one =
            |(name, values): &(String, Vec<f64>)| format!("{name}: {:.1} ms", values.last().copied().unwrap_or(0.0));
        self.rows.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn print(&self, json: bool) -> Outcome {
        let mut out = std::io::stdout().lock();
        if json {
            let rows: serde_json::Map<String, serde_json::Value> =
                self.rows.iter().map(|(name, values)| (name.clone(), serde_json::json!(values))).collect();
            return Ok(writeln!(out, "{:#}", serde_json::Value::Object(rows))?);
        }
        writeln!(out, "{:62} {:>8} {:>8} {:>8}", "milliseconds", "median", "least", "most")?;
        for (name, values) in &self.rows {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { continue };
            writeln!(out, "{name:62} {:>8.1} {least:>8.1} {most:>8.1}", sorted[sorted.len() / 2])?;
        }
        Ok(())
    }
}

/// Tells the person at the terminal how far it is; standard output is for the result.
fn note(line: &str) {
    // Losing it is right: the result does not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
