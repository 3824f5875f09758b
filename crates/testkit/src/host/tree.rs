//! The processes below another one, read from `/proc`, and killing them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::HostedProcess;

/// Pause between two looks while killed processes are going away.
const PAUSE: Duration = Duration::from_millis(1);

/// Everything below this process, parents before their children.
pub(super) fn below_own() -> Vec<HostedProcess> {
    let mut children: BTreeMap<i32, Vec<HostedProcess>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(process) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()).and_then(read) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// Stops and then kills everything below this process. Stopping first makes it one instant for the tree: nobody in it
/// can see another one die, and nobody can start a new process. Returns when nothing is left; somebody else reaps.
pub(super) fn kill_all() {
    let mut stopped = BTreeSet::new();
    loop {
        let fresh: Vec<i32> =
            below_own().iter().map(|process| process.pid).filter(|pid| stopped.insert(*pid)).collect();
        if fresh.is_empty() {
            break;
        }
        signal_each(&fresh, Signal::STOP);
    }
    loop {
        let left: Vec<i32> = below_own().iter().map(|process| process.pid).collect();
        if left.is_empty() {
            return;
        }
        signal_each(&left, Signal::KILL);
        std::thread::sleep(PAUSE);
    }
}

fn signal_each(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // Losing it is right: a process that is gone needs no signal, and the caller looks again.
        let _ = kill_process(pid, signal);
    }
}

/// One process; none if it is gone. A zombie counts: it is gone only when it has been reaped.
fn read(pid: i32) -> Option<HostedProcess> {
    /// Characters of a command line that tell one process from another.
    const SHOWN: usize = 300;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything; the state and the parent follow the last one (proc(5)).
    let (_, rest) = stat.rsplit_once(')')?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    Some(HostedProcess { pid, parent, command: words.join(" ").trim().chars().take(SHOWN).collect() })
}
