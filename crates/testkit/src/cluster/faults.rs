//! What is done to members: signals to their parts, links cut, directories lost.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal};

use super::{Cluster, ClusterError, Outcome};
use crate::host::HostedProcess;

/// A part of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The process that observes and decides, with its voter.
    Agent,
    /// The guard that owns the postmaster.
    InnerGuard,
    /// The guard that is the member's main process.
    OuterGuard,
    /// The postmaster alone.
    Postmaster,
    /// The postmaster and everything below it.
    Server,
    /// The server's process that receives WAL.
    WalReceiver,
    /// The server's processes that send WAL.
    WalSenders,
    /// Everything.
    All,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Agent => "agent",
            Self::InnerGuard => "inner guard",
            Self::OuterGuard => "outer guard",
            Self::Postmaster => "postmaster",
            Self::Server => "server",
            Self::WalReceiver => "WAL receiver",
            Self::WalSenders => "WAL senders",
            Self::All => "whole member",
        })
    }
}

impl Cluster {
    /// Everything that runs on a member's host.
    pub fn processes(&self, member: usize) -> Outcome<Vec<HostedProcess>> {
        Ok(self.hosts[member].borrow_mut().processes()?)
    }

    /// The processes of a part of a member; none if it does not run.
    pub fn pids(&self, member: usize, part: Part) -> Outcome<Vec<Pid>> {
        let processes = self.processes(member)?;
        let outer = self.agents[member].map(|pid| pid.as_raw_nonzero().get());
        let found = select(&processes, outer, part);
        Ok(found.into_iter().filter_map(Pid::from_raw).collect())
    }

    /// Sends a signal to every process of a part, which must have one. One that ends meanwhile needs none.
    pub fn signal(&self, member: usize, part: Part, signal: Signal) -> Outcome {
        let pids = self.pids(member, part)?;
        if pids.is_empty() {
            return Err(ClusterError::NoProcess { member: self.name(member).to_owned(), part });
        }
        for pid in pids {
            let sent = self.hosts[member].borrow_mut().signal(pid, signal);
            let number = pid.as_raw_nonzero().get();
            if sent.is_err() && self.processes(member)?.iter().any(|process| process.pid == number) {
                sent?;
            }
        }
        Ok(())
    }

    /// SIGKILL to a part of a member. The whole of it goes in one instant, as in a power cut, link and all if it has one.
    pub fn kill(&mut self, member: usize, part: Part) -> Outcome {
        match part {
            Part::All => self.kill_member(member),
            _ => self.signal(member, part, Signal::KILL),
        }
    }

    /// Kills a member as a whole, at once: none of its processes sees another one die.
    pub fn kill_member(&mut self, member: usize) -> Outcome {
        self.hosts[member].borrow_mut().kill_all()?;
        self.agents[member] = None;
        Ok(())
    }

    /// SIGSTOP to a part of a member.
    pub fn freeze(&self, member: usize, part: Part) -> Outcome {
        self.signal(member, part, Signal::STOP)
    }

    /// SIGCONT to what is left of a part of a member; nothing left is no error, a guard may have killed it meanwhile.
    pub fn thaw(&self, member: usize, part: Part) -> Outcome {
        match self.signal(member, part, Signal::CONT) {
            Err(ClusterError::NoProcess { .. }) => Ok(()),
            other => other,
        }
    }

    /// Cuts a member off from the others: all packets are lost. Only in namespaces.
    pub fn cut(&self, member: usize) -> Outcome {
        Ok(self.network.as_ref().ok_or(ClusterError::NoLinks)?.cut(self.members[member].number)?)
    }

    /// Puts a cut link back.
    pub fn heal(&self, member: usize) -> Outcome {
        Ok(self.network.as_ref().ok_or(ClusterError::NoLinks)?.heal(self.members[member].number)?)
    }

    /// Loses a stopped member's part of the store.
    pub fn lose_store(&self, member: usize) -> Outcome {
        remove(&self.raft_dir(member))
    }

    /// Loses everything that a stopped member had, but for its configuration and its log.
    pub fn lose_disk(&self, member: usize) -> Outcome {
        let directory = self.socket_dir(member);
        let cannot = |source| ClusterError::File { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path != self.log_path(member) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The processes of a part. `outer` is the member's main process.
fn select(processes: &[HostedProcess], outer: Option<i32>, part: Part) -> Vec<i32> {
    let is_server = |process: &HostedProcess| {
        let word = process.command.split(' ').next().unwrap_or_default();
        word.ends_with("/postgres") || word.ends_with("/postmaster") || word == "postgres:"
    };
    let is_guard = |process: &HostedProcess| process.command.starts_with("pgbaton guard");
    let is_postmaster = |process: &HostedProcess| {
        is_server(process)
            && !process.command.starts_with("postgres:")
            && !processes.iter().any(|other| other.pid == process.parent && is_server(other))
    };
    let is_of_server = |process: &HostedProcess, word: &str| {
        process.command.starts_with("postgres:") && process.command.contains(word)
    };
    let wanted = |process: &&HostedProcess| match part {
        Part::Agent => process.command.starts_with("pgbaton agent --under-guard"),
        Part::OuterGuard => is_guard(process) && Some(process.pid) == outer,
        Part::InnerGuard => is_guard(process) && Some(process.pid) != outer,
        Part::Postmaster => is_postmaster(process),
        Part::Server => is_server(process),
        Part::WalReceiver => is_of_server(process, "walreceiver"),
        Part::WalSenders => is_of_server(process, "walsender"),
        Part::All => true,
    };
    processes.iter().filter(wanted).map(|process| process.pid).collect()
}

fn remove(path: &Path) -> Outcome {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| ClusterError::File { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_member_are_told_apart() {
        let process = |pid, parent, command: &str| HostedProcess { pid, parent, command: command.to_owned() };
        let processes = [
            process(10, 1, "pgbaton guard /d/m1.yml"),
            process(11, 10, "pgbaton guard /d/m1.yml"),
            process(12, 11, "pgbaton agent --under-guard /d/m1.yml"),
            process(13, 11, "/usr/lib/postgresql/15/bin/postgres -D /d/data"),
            process(14, 13, "postgres: demo: walreceiver streaming 0/3000060"),
            process(16, 13, "postgres: demo: walsender replicator 127.0.0.1(1234) streaming 0/3000060"),
            process(15, 12, "/usr/lib/postgresql/15/bin/pg_basebackup -D /d/data"),
        ];
        let of = |part| select(&processes, Some(10), part);
        assert_eq!(of(Part::OuterGuard), [10]);
        assert_eq!(of(Part::InnerGuard), [11]);
        assert_eq!(of(Part::Agent), [12]);
        assert_eq!(of(Part::Postmaster), [13]);
        assert_eq!(of(Part::Server), [13, 14, 16]);
        assert_eq!(of(Part::WalReceiver), [14]);
        assert_eq!(of(Part::WalSenders), [16]);
        assert_eq!(of(Part::All).len(), 7);
    }
}
