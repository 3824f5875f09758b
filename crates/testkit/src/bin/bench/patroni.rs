//! Patroni from the Python package index with a real etcd on each host: what pgbaton is compared with.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgbaton_testkit::Launch;

use crate::events::Event;
use crate::system::{Member, System, Variant};
use crate::{Outcome, note};

/// The release that the figures in the documentation were compared with.
const VERSION: &str = "4.1.5";

/// Patroni, installed into a virtual environment.
pub(crate) struct Patroni {
    name: String,
    programs: PathBuf,
}

impl Patroni {
    /// Installs it below `work`, if it is not there yet.
    pub(crate) fn install(work: &Path) -> Outcome<Self> {
        let environment = work.join(format!("patroni-{VERSION}"));
        let programs = environment.join("bin");
        let installed = Self { name: format!("Patroni {VERSION}, etcd"), programs };
        if !installed.programs.join("patroni").is_file() {
            note(&format!("installing Patroni {VERSION} into {}", environment.display()));
            run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&environment))?;
            let packages = [format!("patroni[etcd3,psycopg3]=={VERSION}"), "psycopg[binary]".to_owned()];
            run(Command::new(installed.programs.join("pip")).args(["install", "--quiet"]).args(packages))?;
        }
        Ok(installed)
    }
}

fn run(command: &mut Command) -> Outcome {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

impl System for Patroni {
    fn name(&self) -> &str {
        &self.name
    }

    fn variants(&self) -> Vec<Variant> {
        use Event::{AgentTerminated, Footprint, HostLost, PostmasterKilled, Start, Switchover};
        let all = &[Start, Switchover, AgentTerminated, PostmasterKilled, HostLost, Footprint];
        vec![
            Variant { name: "default", ttl: 30, loop_wait: 10, retry_timeout: 10, events: all },
            Variant {
                name: "loop_wait 1",
                ttl: 30,
                loop_wait: 1,
                retry_timeout: 10,
                events: &[Start, PostmasterKilled],
            },
            Variant { name: "ttl 20", ttl: 20, loop_wait: 10, retry_timeout: 5, events: &[HostLost] },
        ]
    }

    fn store(&self, member: &Member) -> Option<Launch> {
        let (name, address) = (member.name(), member.address);
        let cluster: Vec<_> =
            (1..).zip(&member.all).map(|(host, address)| format!("h{host}=http://{address}:2380")).collect();
        let data = member.directory.join("etcd").display().to_string();
        let arguments = [
            ("--name", name),
            ("--data-dir", data),
            ("--listen-client-urls", format!("http://{address}:2379")),
            ("--advertise-client-urls", format!("http://{address}:2379")),
            ("--listen-peer-urls", format!("http://{address}:2380")),
            ("--initial-advertise-peer-urls", format!("http://{address}:2380")),
            ("--initial-cluster", cluster.join(",")),
        ];
        let arguments = arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        Some(member.launch("/usr/bin/etcd".into(), "etcd.log").args(arguments))
    }

    fn configuration(&self, member: &Member, variant: &Variant) -> String {
        let hosts: Vec<_> = member.all.iter().map(|address| format!("    - {address}:2379\n")).collect();
        member.yaml(variant, &format!("etcd3:\n  hosts:\n{}", hosts.concat()))
    }

    fn agent(&self, member: &Member, config: &Path) -> Outcome<Launch> {
        Ok(member.launch(self.programs.join("patroni"), "agent.log").args([config.display().to_string()]))
    }
}
