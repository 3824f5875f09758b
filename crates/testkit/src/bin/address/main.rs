//! The bench of the virtual address: three members in network namespaces hand over again and again, and a client on another host that
//! knows nothing but the address says when it gets an answer of the new primary.
//!
//! Needs root. Started by `cargo xtask bench address`.

mod clients;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clients::{Promoted, Reached};
use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Place, Programs};
use pgbaton_testkit::figures::{Figures, Format, LIMIT, Outcome, end, note};
use pgbaton_testkit::{AddressWatch, HostProgram, wait};

/// The section of each member.
const SECTION: &str = "  interface: eth0\n  addresses: [{network}.200/24, '{network6}::c8/64']\n";

#[derive(Parser)]
#[command(name = "cargo xtask bench address --", about = "How fast the virtual address moves")]
struct Options {
    /// How many switchovers
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Where logs are
    #[arg(long)]
    work_dir: PathBuf,
    /// The pgbaton to measure
    #[arg(long)]
    pgbaton: PathBuf,
}

fn main() -> ExitCode {
    end(measure(&Options::parse()))
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
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        hand_over(round, &cluster, addresses, &watches, &mut figures)?;
        cluster.wait_healthy(LIMIT)?;
    }
    for watch in &watches {
        if let Some((one, other)) = watch.so_far().twice {
            return Err(format!("hosts {one} and {other} had the address at once").into());
        }
    }
    figures.print(options.format)
}

fn hand_over(
    round: usize,
    cluster: &Cluster,
    addresses: [IpAddr; 2],
    watches: &[AddressWatch; 2],
    figures: &mut Figures,
) -> Outcome {
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
        // A client may see the new primary before the one that asks it directly; that is no time less than none.
        let [moved, silent] = [role, last].map(|from| first.since(from).as_secs_f64() * 1000.0);
        note(&format!("round {round}, {name}: there after {moved:.1} ms, silent for {silent:.1} ms"));
        figures.add(&format!("role change to first answer at the address, {name}"), "ms", "500", [moved]);
        figures.add(&format!("last answer of the old to first of the new primary, {name}"), "ms", "", [silent]);
    }
    Ok(())
}
