//! Patroni from the Python package index with a real etcd on each host: what pgbaton is compared with.

use std::path::Path;

use pgbaton_testkit::{Launch, Venv};

use crate::events::Event;
use crate::system::{Member, System, Variant};
use crate::{Outcome, note};

/// The release that the figures in the documentation were compared with.
const VERSION: &str = "4.1.5";

/// Patroni, installed into a virtual environment.
pub(crate) struct Patroni {
    name: String,
    environment: Venv,
}

impl Patroni {
    /// Installs it below `work`, if it is not there yet.
    pub(crate) fn install(work: &Path) -> Outcome<Self> {
        note(&format!("installing Patroni {VERSION} below {}, unless it is there", work.display()));
        let packages = [&format!("patroni[etcd3,psycopg3]=={VERSION}"), "psycopg[binary]"];
        let environment = Venv::install(work, &format!("patroni-{VERSION}"), &packages)?;
        Ok(Self { name: format!("Patroni {VERSION}, etcd"), environment })
    }
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
        Ok(member.launch(self.environment.program("patroni"), "agent.log").args([config.display().to_string()]))
    }
}
