//! pgbaton with its embedded store: nothing else runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgbaton_testkit::Launch;

use crate::Outcome;
use crate::events::Event;
use crate::system::{Member, System, Variant};

/// The embedded store's port inside each namespace.
const RAFT_PORT: u16 = 2380;

/// The binary under test.
pub(crate) struct Pgbaton {
    name: String,
    program: PathBuf,
}

impl Pgbaton {
    /// The binary at `program`, which must say its version.
    pub(crate) fn new(program: &Path) -> Outcome<Self> {
        let program =
            program.canonicalize().map_err(|error| format!("no pgbaton at {}: {error}", program.display()))?;
        let output = Command::new(&program).arg("--version").output()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || version.is_empty() {
            return Err(format!("{} --version says nothing", program.display()).into());
        }
        Ok(Self { name: version, program })
    }
}

impl System for Pgbaton {
    fn name(&self) -> &str {
        &self.name
    }

    fn variants(&self) -> Vec<Variant> {
        use Event::{AgentTerminated, Footprint, HostLost, PostmasterKilled, Start, StoreLeaderLost, Switchover};
        let all = &[Start, Switchover, AgentTerminated, PostmasterKilled, HostLost, StoreLeaderLost, Footprint];
        vec![
            Variant { name: "default", ttl: 10, loop_wait: 1, retry_timeout: 4, events: all },
            Variant { name: "ttl 5", ttl: 5, loop_wait: 1, retry_timeout: 2, events: &[HostLost, StoreLeaderLost] },
        ]
    }

    fn store(&self, _member: &Member) -> Option<Launch> {
        None
    }

    fn configuration(&self, member: &Member, variant: &Variant) -> String {
        let (address, directory) = (member.address, member.directory.display());
        let partners = member.all.iter().filter(|other| **other != address);
        let partners: Vec<_> = partners.map(|other| format!("    - {other}:{RAFT_PORT}\n")).collect();
        let raft = format!(
            "raft:\n  data_dir: {directory}/raft\n  self_addr: {address}:{RAFT_PORT}\n  password: bench-raft\n  partner_addrs:\n{}",
            partners.concat()
        );
        member.yaml(variant, &raft)
    }

    fn agent(&self, member: &Member, config: &Path) -> Outcome<Launch> {
        Ok(member.launch(self.program.clone(), "agent.log").args(["agent".to_owned(), config.display().to_string()]))
    }
}
