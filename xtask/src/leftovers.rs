//! Nothing may be left behind by a test run: no process, no file, and no segment of shared memory.
//!
//! Everything that a run starts inherits a mark in its environment and a temporary directory of its own. A process
//! belongs to the run if it carries the mark, or if it works inside the directory: PostgreSQL overwrites its
//! environment with its status line, but works inside its data directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, Outcome, failure, say};

/// The environment variable that marks the processes of one run.
const MARK: &str = "PGBATON_TEST_RUN";

/// One test run's mark and directory. The directory goes when this is dropped.
pub(crate) struct Scratch {
    directory: PathBuf,
    mark: String,
    /// Segments of shared memory that were there before.
    segments: BTreeSet<u64>,
}

impl Scratch {
    /// Makes the directory, open to every user: PostgreSQL and the demo run as others than root. Its name is short, for the
    /// path of a Unix socket in it may have 107 bytes at most (unix(7)).
    pub(crate) fn new() -> Outcome<Self> {
        let made = run::output(Command::new("mktemp").args(["--directory", "--tmpdir", "pgt.XXXXXX"]))?;
        let directory = PathBuf::from(made.trim());
        let open = fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777));
        open.map_err(|error| failure!("cannot open {} to all users: {error}", directory.display()))?;
        let mark = format!("{MARK}={}", directory.display());
        let segments = abandoned_segments().into_iter().collect();
        Ok(Self { directory, mark, segments })
    }

    /// Where the run's temporary files go.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Gives a command the run's mark and directory.
    pub(crate) fn mark<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(MARK, &self.directory).env("TMPDIR", &self.directory)
    }

    /// Fails with the names of processes and files that are left; the processes are killed.
    ///
    /// A postmaster that was killed leaves a segment of shared memory, which the next one in its directory removes (PostgreSQL, "Shared Memory and
    /// Semaphores"). Tests kill postmasters and remove their directories, and a machine has room for some thousand segments.
    pub(crate) fn check(&self) -> Outcome {
        for segment in abandoned_segments().into_iter().filter(|segment| !self.segments.contains(segment)) {
            // Losing it is right: whoever it belongs to may have removed it meanwhile.
            let _ = Command::new("ipcrm").args(["--shmem-id", &segment.to_string()]).output();
        }
        let mut found = Vec::new();
        for (pid, name) in self.processes() {
            say(&format!("left behind: process {pid}: {name}"));
            found.push(format!("process {pid} ({name})"));
            // By the shell's own `kill`, for a bare machine has no program of that name. Losing it is right: the process
            // may have ended by itself meanwhile, and it is reported either way.
            let _ = Command::new("sh").args(["-c", "kill -KILL \"$0\"", &pid.to_string()]).output();
        }
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            found.push(format!("file {}", entry.path().display()));
        }
        if found.is_empty() { Ok(()) } else { Err(failure!("left behind: {}", found.join(", "))) }
    }

    fn processes(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        let others = pids.filter(|pid| *pid != std::process::id());
        others.filter(|pid| self.owns(*pid)).map(|pid| (pid, name(pid))).collect()
    }

    fn owns(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let marked = environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes());
        marked || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Losing it is right: what is left in it has been reported by `check`.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The segments of shared memory (System V) that nobody is attached to and whose maker has ended.
fn abandoned_segments() -> Vec<u64> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    abandoned(&table, |maker| Path::new(&format!("/proc/{maker}")).exists())
}

/// Of the kernel's table (sysvipc(7)): key, shmid, perms, size, cpid, lpid, nattch and more.
fn abandoned(table: &str, alive: impl Fn(u64) -> bool) -> Vec<u64> {
    let fields = |line: &str| line.split_whitespace().map(|field| field.parse().ok()).collect::<Vec<Option<u64>>>();
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        if let [_, Some(id), _, _, Some(maker), _, Some(0), ..] = fields(line)[..]
            && !alive(maker)
        {
            found.push(id);
        }
    }
    found
}

/// The command line of a process, in short.
fn name(pid: u32) -> String {
    /// Characters of a command line that tell one process from another.
    const SHOWN: usize = 80;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_segments_are_told_from_those_in_use() {
        let table = "key shmid perms size cpid lpid nattch uid\n -7 1 600 56 10 10 0 101\n 8 2 600 56 10 10 3 101\n 9 3 600 56 11 10 0 101\n";
        assert_eq!(abandoned(table, |maker| maker == 11), [1]);
        assert!(abandoned("", |_| false).is_empty());
    }

    #[test]
    fn a_marked_process_and_a_file_are_reported_and_the_process_is_killed() {
        let scratch = Scratch::new().unwrap();
        let mut child = scratch.mark(Command::new("sleep").arg("600")).spawn().unwrap();
        // The mark is visible only once the child has become `sleep`.
        while name(child.id()) != "sleep 600" {
            std::thread::yield_now();
        }
        fs::write(scratch.path().join("forgotten"), "x").unwrap();
        let report = scratch.check().unwrap_err().to_string();
        assert!(report.contains("sleep 600"), "{report}");
        assert!(report.contains("forgotten"), "{report}");
        assert!(!child.wait().unwrap().success());
        fs::remove_file(scratch.path().join("forgotten")).unwrap();
        scratch.check().unwrap();
    }
}
