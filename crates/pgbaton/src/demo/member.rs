use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pgbaton_testkit::PortLease;

use super::place::Place;
use super::tree::Identity;
use crate::cli::Failure;

/// The superuser of every member's server.
pub(super) const SUPERUSER: &str = "postgres";

/// Its password. The members listen on loopback only; it stands in the demo's files, and in what the demo prints.
pub(super) const PASSWORD: &str = "demo";

/// Time to live of the lease, in seconds: the shortest that is sound in general.
pub(super) const TTL_SECONDS: u32 = 5;

/// One member of the demo.
#[derive(Debug)]
pub(super) struct Member {
    /// Its name.
    pub(super) name: String,
    /// Where its server listens.
    pub(super) postgres: SocketAddr,
    /// Where its REST API listens.
    rest: SocketAddr,
    raft: SocketAddr,
    directory: PathBuf,
    guard: Option<Child>,
    /// The ports are held for as long as the demo runs; afterwards the members themselves listen on them.
    _ports: Vec<PortLease>,
}

impl Member {
    /// Their names.
    pub(super) const NAMES: [&str; 3] = ["pg1", "pg2", "pg3"];

    /// The file of its words, in its directory.
    pub(super) const LOG: &str = "member.log";

    /// Three members with their ports, directories and configurations.
    pub(super) fn three(place: &Place, bin_dir: &Path) -> Result<Vec<Self>, Failure> {
        let mut members = Vec::new();
        for name in Self::NAMES {
            let ports = PortLease::hold_many(3).map_err(|error| Failure::because("no free ports", error))?;
            let address = |index: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[index].port()));
            let (postgres, rest, raft) = (address(0), address(1), address(2));
            let directory = place.member_directory(name)?;
            members.push(Self { name: name.to_owned(), postgres, rest, raft, directory, guard: None, _ports: ports });
        }
        for member in &members {
            place.secret_file(&member.config(), &member.yaml(&members, bin_dir))?;
        }
        Ok(members)
    }

    /// Its configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("member.yml")
    }

    /// What its processes write.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join(Self::LOG)
    }

    /// Its REST API.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.rest)
    }

    /// Starts it: one process, which becomes the guard. In a process group of its own, so that Ctrl-C reaches the demo only.
    pub(super) fn start(&mut self, program: &Path, place: &Place) -> Result<(), Failure> {
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(|error| Failure::because(format!("cannot write {}", self.log().display()), error))?;
        place.user.own(&self.log()).map_err(|error| Failure::because("cannot give the log away", error))?;
        let mut command = Command::new(program);
        let errors = log.try_clone().map_err(|error| Failure::because("cannot share the log", error))?;
        command.arg("agent").arg(self.config()).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        place.user.apply(&mut command);
        let child =
            command.spawn().map_err(|error| Failure::because(format!("cannot start {}", program.display()), error))?;
        self.guard = Some(child);
        Ok(())
    }

    /// Its outer guard, if it was started.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.guard.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Identity::of)
    }

    /// Why it has ended by itself, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.guard.as_mut()?.try_wait().ok()??;
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Some(format!("{} has ended ({status}); its last words:\n{}", self.name, last.join("\n")))
    }

    /// Takes the dead guard off the system's list.
    pub(super) fn reap(&mut self) -> Result<(), Failure> {
        match self.guard.take() {
            Some(mut child) => child
                .wait()
                .map(drop)
                .map_err(|error| Failure::because(format!("cannot wait for {}", self.name), error)),
            None => Ok(()),
        }
    }

    fn yaml(&self, members: &[Self], bin_dir: &Path) -> String {
        let Self { name, postgres, rest, raft, .. } = self;
        let (directory, bin_dir) = (self.directory.display(), bin_dir.display());
        let partners: Vec<String> =
            members.iter().filter(|other| other.name != *name).map(|other| format!("'{}'", other.raft)).collect();
        let partners = partners.join(", ");
        format!(
            "scope: demo
name: {name}
restapi:
  listen: {rest}
  connect_address: {rest}
raft:
  data_dir: {directory}/store
  self_addr: {raft}
  partner_addrs: [{partners}]
  password: {PASSWORD}
bootstrap:
  dcs:
    ttl: {TTL_SECONDS}
    loop_wait: 1
    retry_timeout: 1.5
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 50
        wal_keep_size: 128MB
  initdb:
    - encoding: UTF8
    - data-checksums
  pg_hba:
    - local all all trust
    - host replication replicator 127.0.0.1/32 scram-sha-256
    - host all all 127.0.0.1/32 scram-sha-256
postgresql:
  listen: {postgres}
  connect_address: {postgres}
  data_dir: {directory}/data
  bin_dir: {bin_dir}
  pgpass: {directory}/pgpass
  authentication:
    superuser: {{username: {SUPERUSER}, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
    rewind: {{username: rewinder, password: {PASSWORD}}}
  parameters:
    unix_socket_directories: {directory}
    shared_buffers: 32MB
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_a_member_is_a_valid_one_without_warnings() {
        let member = |name: &str, port: u16| {
            let address = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port + offset));
            Member {
                name: name.to_owned(),
                postgres: address(0),
                rest: address(1),
                raft: address(2),
                directory: PathBuf::from("/nowhere").join(name),
                guard: None,
                _ports: Vec::new(),
            }
        };
        let members = [member("pg1", 1000), member("pg2", 2000)];
        let loaded = pgbaton_config::load_text("demo", &members[0].yaml(&members, Path::new("/bin"))).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.initial_dynamic.cluster.timing.ttl.as_secs(), u64::from(TTL_SECONDS));
    }
}
