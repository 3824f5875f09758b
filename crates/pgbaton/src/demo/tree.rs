//! The processes of one member, found through `/proc` (proc(5)): the guard adopts every orphan below itself, so that the
//! tree below the outer guard is everything.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its number.
    pub(super) pid: i32,
    /// When it was started, in clock ticks since the boot.
    started: u64,
}

impl Identity {
    /// The process that has this number now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether it still runs. One that has ended and was not reaped does not.
    pub(super) fn runs(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.ended)
    }

    /// Sends it a signal, if it is still there.
    pub(super) fn signal(self, signal: Signal) {
        if self.runs() {
            send(self.pid, signal);
        }
    }
}

/// Freezes the sessions of clients in the tree below a process: they acknowledge nothing any more, while what was acknowledged
/// is still sent to the standbys.
pub(super) fn freeze_sessions(root: Identity) {
    for pid in below(root) {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if is_session(&String::from_utf8_lossy(&title)) {
            send(pid, Signal::STOP);
        }
    }
}

/// Whether the title of a process is a client's over TCP: "postgres: CLUSTER: USER DATABASE ADDRESS(PORT) ..." (PostgreSQL
/// documentation, "Standard Unix Tools").
fn is_session(title: &str) -> bool {
    title.starts_with("postgres: ") && title.contains("127.0.0.1(") && !title.contains(": walsender ")
}

/// What was killed, by kind.
#[derive(Debug, Default)]
pub(super) struct Killed {
    /// Guards.
    pub(super) guards: usize,
    /// Agents, each with its voter.
    pub(super) agents: usize,
    /// The postmaster and its processes.
    pub(super) servers: usize,
}

/// Kills a process and everything below it at once. The tree is frozen first, so that none of them sees another one die and
/// none gets away.
pub(super) fn kill_at_once(root: Identity) -> Killed {
    let mut frozen = BTreeSet::new();
    loop {
        let fresh: Vec<i32> = below(root).into_iter().filter(|pid| !frozen.contains(pid)).collect();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            send(pid, Signal::STOP);
            frozen.insert(pid);
        }
    }
    let mut killed = Killed::default();
    for pid in &frozen {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        match words.split(|byte| *byte == 0).nth(1) {
            Some(b"guard") => killed.guards += 1,
            Some(b"agent") => killed.agents += 1,
            _ => killed.servers += 1,
        }
    }
    for pid in frozen {
        send(pid, Signal::KILL);
    }
    killed
}

/// The process and all its descendants, parents first.
fn below(root: Identity) -> Vec<i32> {
    if !root.runs() {
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut tree = vec![root.pid];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(parents.iter().filter(|(_, above)| *above == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

struct Stat {
    parent: i32,
    started: u64,
    ended: bool,
}

/// `/proc/PID/stat`: state, parent and start time stand behind the name, which may hold anything but ends with the last `)`.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(fields.first(), Some(&("Z" | "X"))),
    })
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Losing the error is right: a process that is gone is what a signal to it is for.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn sessions_are_told_from_senders_by_their_titles() {
        assert!(is_session("postgres: demo: postgres postgres 127.0.0.1(40112) idle"));
        for title in [
            "postgres: demo: walsender replicator 127.0.0.1(40110) streaming 0/3000148",
            "postgres: demo: checkpointer ",
            "postgres: demo: postgres postgres [local] idle",
            "/usr/lib/postgresql/15/bin/postgres -D data",
        ] {
            assert!(!is_session(title), "{title}");
        }
    }

    #[test]
    fn a_tree_is_killed_as_a_whole() {
        let mut child = Command::new("/bin/sh").args(["-c", "sleep 600 & sleep 600 & wait"]).spawn().unwrap();
        let root = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        pgbaton_testkit::wait::until("three processes", std::time::Duration::from_secs(10), || {
            let tree = below(root);
            if tree.len() == 3 { Ok(()) } else { Err(format!("{tree:?}")) }
        })
        .unwrap();
        assert_eq!(kill_at_once(root).servers, 3);
        child.wait().unwrap();
        assert!(!root.runs() && below(root).is_empty());
    }
}
