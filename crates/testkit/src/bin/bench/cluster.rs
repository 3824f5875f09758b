//! A cluster under measurement: three hosts, their members, and what can be done to them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_testkit::writer::{Target, Writer};
use pgbaton_testkit::{Host, HostProgram, Network, OsUser, TempDir, postgres, wait};
use rustix::process::{Pid, Signal};

use crate::servers::{ServerState, states};
use crate::system::{Member, PASSWORD, POSTGRES_PORT, REST_PORT, System, Variant};
use crate::{Outcome, http};

/// Members of the cluster: the least that survives the loss of one with a store of its own.
pub(crate) const HOSTS: u8 = 3;

/// Longest wait for three members that stream, also after a host was lost with Patroni's longest lease.
const HEALTHY: Duration = Duration::from_secs(180);

/// Longest wait for the store's servers.
const STORE: Duration = Duration::from_secs(60);

/// Three hosts with one member each.
pub(crate) struct Cluster<'a> {
    system: &'a dyn System,
    variant: &'a Variant,
    network: &'a Network,
    members: Vec<Member>,
    hosts: Vec<Host>,
    agents: Vec<Option<Pid>>,
    // Goes last: fields are dropped in this order, and hosts still write to it.
    _directory: TempDir,
}

impl<'a> Cluster<'a> {
    /// Three hosts on which the store runs, if it is a server of its own, and no member yet.
    pub(crate) fn new(
        work: &Path,
        system: &'a dyn System,
        variant: &'a Variant,
        network: &'a Network,
    ) -> Outcome<Self> {
        let user = OsUser::for_servers()?;
        let directory = TempDir::new_in(work, "bench", &user)?;
        let bin_dir = postgres::bin_dir()?;
        let all: Vec<_> = network.hosts().map(|host| network.address(host)).collect();
        let mut members = Vec::new();
        let mut hosts = Vec::new();
        for host in network.hosts() {
            let own = directory.subdir(&format!("h{host}"), &user)?;
            let address = network.address(host);
            let (all, bin_dir, user) = (all.clone(), bin_dir.clone(), user.clone());
            let member = Member { host, address, all, directory: own, bin_dir, user };
            write_for(&member, "member.yml", &system.configuration(&member, variant))?;
            hosts.push(Host::start(&member.name(), &HostProgram::own()?.inside(&network.namespace(host)))?);
            members.push(member);
        }
        let agents = vec![None; members.len()];
        let mut cluster = Self { system, variant, network, members, hosts, agents, _directory: directory };
        for index in 0..cluster.members.len() {
            cluster.start_store(index)?;
        }
        cluster.wait_for_store()?;
        Ok(cluster)
    }

    /// The first member's configuration, as it was used.
    pub(crate) fn configuration(&self) -> String {
        self.system.configuration(&self.members[0], self.variant)
    }

    /// Starts the agents that do not run.
    pub(crate) fn start_agents(&mut self) -> Outcome {
        for index in 0..self.members.len() {
            let running = match self.agents[index] {
                Some(pid) => self.hosts[index].ended(pid)?.is_none(),
                None => false,
            };
            if !running {
                let config = self.members[index].directory.join("member.yml");
                let launch = self.system.agent(&self.members[index], &config)?;
                self.agents[index] = Some(self.hosts[index].launch(&launch)?);
            }
        }
        Ok(())
    }

    /// Waits until one server is primary and the others stream from it.
    pub(crate) fn wait_streaming(&self) -> Outcome {
        let servers = self.servers();
        wait::until("a primary and two streaming standbys", HEALTHY, || {
            let states = states(&servers).map_err(|error| error.to_string())?;
            let count = |wanted: &ServerState| states.iter().filter(|state| *state == wanted).count();
            let healthy = count(&ServerState::Primary) == 1 && count(&ServerState::Streaming) == servers.len() - 1;
            if healthy { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .map_err(|error| format!("{error}\nlogs:\n{}", self.log_ends()).into())
    }

    /// Waits until the servers stream and the members know it, which can be a loop later.
    pub(crate) fn wait_healthy(&self) -> Outcome {
        self.wait_streaming()?;
        let address = SocketAddr::from((self.members[self.primary()?].address, REST_PORT));
        wait::until("a healthy GET /cluster", HEALTHY, || {
            let answer =
                http::ask(address, "GET", "/cluster", "", Duration::from_secs(5)).map_err(|error| error.to_string())?;
            if self.is_healthy(&answer.1) { Ok(()) } else { Err(answer.1) }
        })
        .map_err(|error| format!("{error}\nlogs:\n{}", self.log_ends()).into())
    }

    fn is_healthy(&self, document: &str) -> bool {
        let document: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
        let members = document["members"].as_array().cloned().unwrap_or_default();
        let count = |role: &str, state: &str| {
            members.iter().filter(|member| member["role"] == role && member["state"] == state).count()
        };
        count("leader", "running") == 1 && count("replica", "streaming") == self.members.len() - 1
    }

    /// The place in the list of the one server that takes writes.
    pub(crate) fn primary(&self) -> Outcome<usize> {
        let states = states(&self.servers())?;
        let primaries: Vec<_> = (0..states.len()).filter(|index| states[*index] == ServerState::Primary).collect();
        match primaries[..] {
            [one] => Ok(one),
            _ => Err(format!("{} primaries: {states:?}", primaries.len()).into()),
        }
    }

    /// Where the servers listen.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| SocketAddr::from((member.address, POSTGRES_PORT))).collect()
    }

    /// A writer to all of them.
    pub(crate) fn writer(&self) -> Outcome<Writer> {
        let password = Some(PASSWORD.to_owned());
        let target = Target { servers: self.servers(), user: "postgres".into(), password, database: "postgres".into() };
        Ok(Writer::start(&target)?)
    }

    /// Asks the primary for a switchover to another member; returns when the system says that it is done.
    pub(crate) fn switchover(&self, from: usize, to: usize) -> Outcome {
        /// Longest wait for the answer, which comes at the end.
        const LIMIT: Duration = Duration::from_secs(120);
        let address = SocketAddr::from((self.members[from].address, REST_PORT));
        let (leader, candidate) = (self.members[from].name(), self.members[to].name());
        let body = format!("{{\"leader\": \"{leader}\", \"candidate\": \"{candidate}\"}}");
        match http::ask(address, "POST", "/switchover", &body, LIMIT)? {
            (200, _) => Ok(()),
            (status, text) => {
                Err(format!("switchover from {leader} to {candidate} was refused: {status} {text}").into())
            }
        }
    }

    /// SIGTERM to a member's agent, as a service manager does it.
    pub(crate) fn terminate_agent(&mut self, index: usize) -> Outcome {
        let pid = self.agents[index].ok_or("the agent was never started")?;
        Ok(self.hosts[index].signal(pid, Signal::TERM)?)
    }

    /// SIGKILL to a member's postmaster, and to nothing else.
    pub(crate) fn kill_postmaster(&mut self, index: usize) -> Outcome {
        let path = self.members[index].data_dir().join("postmaster.pid");
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        // The postmaster's number is the file's first line (PostgreSQL documentation, section 73.1).
        let pid = text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
        Ok(self.hosts[index].signal(pid.ok_or("postmaster.pid holds no number")?, Signal::KILL)?)
    }

    /// Cuts a host off, then kills everything on it.
    pub(crate) fn lose_host(&mut self, index: usize) -> Outcome {
        self.network.cut(self.members[index].host)?;
        self.hosts[index].kill_all()?;
        self.agents[index] = None;
        Ok(())
    }

    /// Brings a lost host back: its link, its store, its member.
    pub(crate) fn restore_host(&mut self, index: usize) -> Outcome {
        self.network.heal(self.members[index].host)?;
        self.start_store(index)?;
        self.start_agents()
    }

    /// Sends a signal to a member's agent proper, and to nothing beside it.
    pub(crate) fn signal_agent(&mut self, index: usize, signal: Signal) -> Outcome {
        let pid = self.agent(index)?;
        Ok(self.hosts[index].signal(pid, signal)?)
    }

    /// The agent of a member of pgbaton.
    pub(crate) fn agent(&mut self, index: usize) -> Outcome<Pid> {
        let agents = self.hosts[index].processes()?;
        let agent = agents.iter().find(|process| process.command.contains("--under-guard"));
        Ok(agent.and_then(|process| Pid::from_raw(process.pid)).ok_or("no agent runs there")?)
    }

    /// Asks a member's REST API, which must answer with 200.
    pub(crate) fn ask(&self, index: usize, path: &str) -> Outcome<serde_json::Value> {
        /// Longest wait for each part of the answer: it is made from what the member knows already.
        const LIMIT: Duration = Duration::from_secs(1);
        let address = SocketAddr::from((self.members[index].address, REST_PORT));
        match http::ask(address, "GET", path, "", LIMIT)? {
            (200, body) => Ok(serde_json::from_str(&body)?),
            (status, body) => Err(format!("{address} answered {path} with {status} {body}").into()),
        }
    }

    /// Copies the agents' logs to a directory that stays.
    pub(crate) fn keep_logs(&self, directory: &Path) -> Outcome {
        fs::create_dir_all(directory)?;
        for member in &self.members {
            fs::copy(member.directory.join("agent.log"), directory.join(format!("{}.log", member.name())))?;
        }
        Ok(())
    }

    /// How many members there are.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// The processes of a member that are neither PostgreSQL nor a store's server.
    pub(crate) fn agent_processes(&mut self, index: usize) -> Outcome<Vec<i32>> {
        let others = |pid: i32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.file_name().is_some_and(|name| name != "postgres" && name != "etcd")
        };
        Ok(self.hosts[index].processes()?.iter().map(|process| process.pid).filter(|pid| others(*pid)).collect())
    }

    /// Ends everything, by force: nothing of it is used again.
    pub(crate) fn stop(mut self) -> Outcome {
        for host in &mut self.hosts {
            host.kill_all()?;
        }
        Ok(())
    }

    fn start_store(&mut self, index: usize) -> Outcome {
        if let Some(launch) = self.system.store(&self.members[index]) {
            self.hosts[index].launch(&launch)?;
        }
        Ok(())
    }

    fn wait_for_store(&self) -> Outcome {
        for member in self.members.iter().filter(|member| self.system.store(member).is_some()) {
            let address = SocketAddr::from((member.address, 2379));
            wait::until("a healthy etcd", STORE, || {
                match http::ask(address, "GET", "/health", "", Duration::from_secs(2)) {
                    Ok((200, _)) => Ok(()),
                    Ok((status, body)) => Err(format!("{status} {body}")),
                    Err(error) => Err(error.to_string()),
                }
            })?;
        }
        Ok(())
    }

    /// The last lines of each agent's log: what one needs to see when a round fails.
    fn log_ends(&self) -> String {
        /// Lines of each log.
        const LINES: usize = 15;
        let end = |member: &Member| {
            let text = fs::read_to_string(member.directory.join("agent.log")).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("--- {}\n{}\n", member.name(), lines[lines.len().saturating_sub(LINES)..].join("\n"))
        };
        self.members.iter().map(end).collect()
    }
}

fn write_for(member: &Member, name: &str, content: &str) -> Outcome<PathBuf> {
    let path = member.directory.join(name);
    fs::write(&path, content)?;
    member.user.own(&path)?;
    Ok(path)
}
