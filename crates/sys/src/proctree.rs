//! The processes below another one, read from `/proc` without allocating.
//!
//! A look can miss a process that moves to another parent while it is read. Whoever kills a tree looks until it finds
//! nothing, twice in a row.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, Signal, kill_process};

/// Most processes that one look follows down from its root. Those beyond it are found by the next look, when the first
/// are gone: 8192 is far above `max_connections` of a sensible server and costs 32 KiB of address space.
const MOST: usize = 8192;

/// Bytes of a path below `/proc/<pid>/task/<pid>/`.
const PATH_BYTES: usize = 64;

/// What `/proc/<pid>/stat` says of a process (`proc(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter; `Z` is one that has ended and waits to be reaped.
    pub state: u8,
    /// Parent's process id.
    pub parent: i32,
    /// Id of the session's leader.
    pub session: i32,
    /// Start time in clock ticks since the host was booted: with the process id it names one process for good.
    pub start_ticks: u64,
}

/// Reads `/proc/<pid>/stat`; `None` when there is no such process. Allocates nothing.
pub fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    let mut bytes = [0_u8; 1024];
    match read_proc(pid, "stat", &mut bytes) {
        Ok(length) => Ok(parse_stat(&bytes[..length])),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The command's name stands in parentheses and may contain anything, also more of them.
    let after = bytes.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = std::str::from_utf8(bytes.get(after..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // Field 22 of the line; the session is field 6.
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, start_ticks })
}

/// A reader of process trees, with its memory. One of them is 32 KiB, made once and untouched until used.
#[derive(Debug)]
pub struct ProcTree {
    queue: Box<[i32]>,
    /// Whether the kernel lists children (`CONFIG_PROC_CHILDREN`); without it only direct children are found per look.
    lists_children: bool,
}

impl ProcTree {
    /// Allocates the reader's memory.
    #[must_use]
    pub fn new() -> Self {
        let own = rustix::process::getpid();
        let lists_children = open_proc(own, "children").is_ok();
        Self { queue: vec![0; MOST].into_boxed_slice(), lists_children }
    }

    /// Calls `visit` for each process below `root`, parents before their children, but not for `except` and what is
    /// below that one. A process that has ended and was not reaped counts. Returns how many were visited.
    pub fn visit(&mut self, root: Pid, except: Option<Pid>, mut visit: impl FnMut(Pid)) -> io::Result<usize> {
        if !self.lists_children {
            return visit_direct(root, except, &mut visit);
        }
        self.queue[0] = root.as_raw_nonzero().get();
        let (mut read, mut filled) = (0, 1);
        while read < filled {
            let parent = self.queue[read];
            read += 1;
            let Some(parent) = Pid::from_raw(parent) else { continue };
            let queue = &mut self.queue;
            for_each_child(parent, |child| {
                if Some(child) == except {
                    return;
                }
                visit(child);
                if filled < queue.len() {
                    queue[filled] = child.as_raw_nonzero().get();
                    filled += 1;
                }
            })?;
        }
        Ok(filled - 1)
    }

    /// Sends SIGKILL to each process below `root` but `except` and what is below that one. Returns how many there
    /// were, those included that have ended and wait to be reaped.
    pub fn kill(&mut self, root: Pid, except: Option<Pid>) -> io::Result<usize> {
        self.visit(root, except, kill)
    }
}

impl Default for ProcTree {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends SIGKILL; a process that has gone is as good as killed.
fn kill(pid: Pid) {
    // The only errors are that it is gone, or not ours to kill; the next look shows the latter as still there.
    let _ = kill_process(pid, Signal::KILL);
}

/// Calls `visit` for each child that the main thread of `parent` has.
fn for_each_child(parent: Pid, mut visit: impl FnMut(Pid)) -> io::Result<()> {
    let file = match open_proc(parent, "children") {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut bytes = [0_u8; 2048];
    let mut number = 0_i32;
    loop {
        let length = match rustix::io::read(&file, &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::SRCH) => return Ok(()),
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for byte in &bytes[..length] {
            if byte.is_ascii_digit() {
                number = number.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
            } else if let Some(child) = Pid::from_raw(std::mem::take(&mut number)) {
                visit(child);
            }
        }
    }
}

/// The way without `CONFIG_PROC_CHILDREN`: the direct children of `root`, from all of `/proc`.
fn visit_direct(root: Pid, except: Option<Pid>, visit: &mut impl FnMut(Pid)) -> io::Result<usize> {
    let mut count = 0;
    for_each_process(|pid| {
        let parent = stat(pid)?.map(|stat| stat.parent);
        if parent == Some(root.as_raw_nonzero().get()) && Some(pid) != except {
            visit(pid);
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

/// Calls `visit` for each process of the host (or of this process's PID namespace).
fn for_each_process(mut visit: impl FnMut(Pid) -> io::Result<()>) -> io::Result<()> {
    let directory = rustix::fs::open(c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw) {
            visit(pid)?;
        }
    }
    Ok(())
}

/// The processes whose working directory is `directory`: those of a PostgreSQL server whose data directory it is,
/// whoever their parent is by now. Sees only processes of this user, unless it is root. Allocates.
pub fn with_working_directory(directory: &Path) -> io::Result<Vec<Pid>> {
    let directory = directory.canonicalize()?;
    let mut found = Vec::new();
    for_each_process(|pid| {
        if works_in(pid, &directory) {
            found.push(pid);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whether the working directory of `pid` is `directory`, which must be absolute and free of links. False for another
/// user's process and for one that is gone. Allocates.
pub fn works_in(pid: Pid, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).is_ok_and(|cwd| cwd == directory)
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn read_proc(pid: Pid, name: &str, buffer: &mut [u8]) -> io::Result<usize> {
    let file = open_proc(pid, name)?;
    Ok(rustix::io::read(&file, buffer)?)
}

/// Opens `/proc/<pid>/task/<pid>/<name>`: what concerns the main thread.
fn open_proc(pid: Pid, name: &str) -> io::Result<OwnedFd> {
    let mut path = PathBuffer { bytes: [0; PATH_BYTES], length: 0 };
    let number = pid.as_raw_nonzero();
    write!(path, "/proc/{number}/task/{number}/{name}\0").map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let path = CStr::from_bytes_until_nul(&path.bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

struct PathBuffer {
    bytes: [u8; PATH_BYTES],
    length: usize,
}

impl std::fmt::Write for PathBuffer {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::{ProcTree, parse_stat, stat, visit_direct, with_working_directory};

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"42 (a) b) S 7 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 12";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session, stat.start_ticks), (b'S', 7, 41, 98765));
        assert_eq!(parse_stat(b"nonsense"), None);
    }

    #[test]
    fn children_and_grandchildren_are_visited_and_exceptions_are_not() {
        let mut child =
            Command::new("sh").args(["-c", "sleep 600 & echo; wait"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0_u8; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let shell = Pid::from_child(&child);
        // The tree is read from the shell, since other tests run children below this process.
        let mut tree = ProcTree::new();
        let mut below = Vec::new();
        assert_eq!(tree.visit(shell, None, |pid| below.push(pid)).unwrap(), 1);
        assert_eq!(stat(below[0]).unwrap().unwrap().parent, shell.as_raw_nonzero().get());
        assert_eq!(tree.visit(shell, Some(below[0]), |_| panic!("the exception")).unwrap(), 0);
        let mut direct = Vec::new();
        assert_eq!(visit_direct(shell, None, &mut |pid| direct.push(pid)).unwrap(), 1);
        assert_eq!(direct, below);
        assert_eq!(tree.kill(shell, None).unwrap(), 1);
        child.wait().unwrap();
        assert_eq!(stat(shell).unwrap(), None);
    }

    #[test]
    fn processes_are_found_by_their_working_directory() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(with_working_directory(directory.path()).unwrap(), []);
        let mut child = Command::new("sleep").arg("600").current_dir(directory.path()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert_eq!(with_working_directory(directory.path()).unwrap(), [pid]);
        kill_process(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
