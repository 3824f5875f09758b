//! Nothing may be left behind by a test run: no process and no file.
//!
//! Everything that a run starts inherits a mark in its environment and a temporary directory of its own. A process
//! belongs to the run if it carries the mark, or if it works inside the directory: PostgreSQL overwrites its
//! environment with its status line, but works inside its data directory.

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
        Ok(Self { directory, mark })
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
    pub(crate) fn check(&self) -> Outcome {
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
