//! What a child process does to itself between `fork` and `exec`.
//!
//! Used by [`crate::spawn`], and through [`ChildSetup::apply`] by `std::process::Command`. Everything that runs in the
//! child is async-signal-safe: system calls only, no allocation, no locks.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Signal;

/// The user and groups that a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All group ids.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Those of the operating system's user `name`; `None` if there is no such user.
    pub fn of_user(name: &str) -> io::Result<Option<Self>> {
        let name = CString::new(name)?;
        // SAFETY: a `passwd` of zeroes is valid (null pointers and numbers); it is only read after success.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut text = vec![0; 16 * 1024];
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: all pointers are to live values, and the length is the buffer's.
        let error =
            unsafe { libc::getpwnam_r(name.as_ptr(), &raw mut entry, text.as_mut_ptr(), text.len(), &raw mut found) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            return Ok(None);
        }
        let mut groups = vec![0; 256];
        let mut count = 256;
        // SAFETY: `groups` has room for `count` numbers; the call lowers `count` to those written, or fails.
        if unsafe { libc::getgrouplist(name.as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &raw mut count) } < 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        groups.truncate(usize::try_from(count).unwrap_or(0));
        Ok(Some(Self { uid: entry.pw_uid, gid: entry.pw_gid, groups }))
    }
}

/// The number of the operating system's group `name`; `None` if there is no such group.
pub fn group_of_name(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    // SAFETY: a `group` of zeroes is valid (null pointers and numbers); it is only read after success.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut text = vec![0; 64 * 1024];
    let mut found: *mut libc::group = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, and the length is the buffer's.
    let error =
        unsafe { libc::getgrnam_r(name.as_ptr(), &raw mut entry, text.as_mut_ptr(), text.len(), &raw mut found) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok((!found.is_null()).then_some(entry.gr_gid))
}

/// The steps a child takes before `exec`, in this order: session, umask, descriptors, OOM score, cgroup, groups and
/// user, parent-death signal, check that the parent still lives, signal mask and SIGPIPE as a fresh process has them.
#[derive(Debug, Default)]
pub struct ChildSetup {
    /// Make the child the leader of a new session, without a terminal.
    pub new_session: bool,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Read standard input from `/dev/null`.
    pub stdin_null: bool,
    /// A descriptor to be inherited, and the number that it has in the child (0 to 63).
    pub inherit: Option<(OwnedFd, RawFd)>,
    /// Value for `/proc/self/oom_score_adj`; raising it is always allowed, a refusal is not an error.
    pub oom_score_adj: Option<i16>,
    /// An open `cgroup.procs` of the cgroup that the child moves to. A failure is not an error: what a cgroup is used
    /// for here has a second way.
    pub cgroup_procs: Option<OwnedFd>,
    /// User and groups to change to; needs root.
    pub credentials: Option<Credentials>,
    /// Give up the capabilities that the parent hands on to whatever it executes (`AmbientCapabilities` of systemd): the child needs none.
    /// A failure is not an error: a kernel that knows no such capabilities hands none on.
    pub drop_ambient_capabilities: bool,
    /// Signal that the child gets when the **thread** that made it ends. Changing credentials clears it, so it is set
    /// after them; then the parent is compared, for it may have ended before.
    pub parent_death_signal: Option<Signal>,
}

/// Lowest number that a descriptor is moved to while the child sorts them; above every `inherit` number.
const PARKED: RawFd = 64;

impl ChildSetup {
    /// Has `command`'s child take these steps. The setup lives as long as the command.
    pub fn apply(self, command: &mut Command) {
        let parent = std::process::id();
        // SAFETY: `run` is async-signal-safe and touches only memory that was made before the fork.
        unsafe {
            command.pre_exec(move || self.run(parent));
        }
    }

    /// Takes the steps. Only to be called in a child between `fork` and `exec`; `parent` is the forking process's id.
    pub(crate) fn run(&self, parent: u32) -> io::Result<()> {
        // SAFETY: system calls on plain values and on pointers to live constants and buffers; none of them allocates.
        unsafe {
            if self.new_session {
                check(libc::setsid())?;
            }
            if let Some(mask) = self.umask {
                libc::umask(mask);
            }
            self.descriptors()?;
            if let Some(value) = self.oom_score_adj {
                write_oom_score_adj(value);
            }
            if let Some(procs) = &self.cgroup_procs {
                libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            if let Some(credentials) = &self.credentials {
                check(libc::setgroups(credentials.groups.len(), credentials.groups.as_ptr()))?;
                check(libc::setgid(credentials.gid))?;
                check(libc::setuid(credentials.uid))?;
            }
            if self.drop_ambient_capabilities {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            }
            if let Some(signal) = self.parent_death_signal {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, signal.as_raw()))?;
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()))?;
            // Rust's start-up ignores it, and ignoring is inherited.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        Ok(())
    }

    unsafe fn descriptors(&self) -> io::Result<()> {
        // SAFETY: system calls on numbers of open descriptors and a constant path.
        unsafe {
            if let Some((fd, number)) = &self.inherit {
                // Via a high number, because dup2 of a descriptor onto itself would leave it closed on exec.
                let parked = check(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED))?;
                check(libc::dup2(parked, *number))?;
            }
            if self.stdin_null {
                let null = check(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
                let parked = check(libc::fcntl(null, libc::F_DUPFD_CLOEXEC, PARKED))?;
                check(libc::dup2(parked, 0))?;
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Writes `value` in decimal, without allocating. Failure is allowed, as [`ChildSetup::oom_score_adj`] says.
unsafe fn write_oom_score_adj(value: i16) {
    let mut text = [0_u8; 6];
    let mut start = text.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        // A digit is below ten.
        text[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start -= 1;
        text[start] = b'-';
    }
    // SAFETY: a constant path, a descriptor just opened, and a buffer of the stated length.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, text[start..].as_ptr().cast(), text.len() - start);
            libc::close(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::Signal;

    use super::{ChildSetup, Credentials};

    fn output(setup: ChildSetup, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        setup.apply(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn session_umask_stdin_and_score_are_set() {
        let setup = ChildSetup {
            new_session: true,
            umask: Some(0o077),
            stdin_null: true,
            oom_score_adj: Some(321),
            ..Default::default()
        };
        let seen = output(
            setup,
            "umask; cat; cat /proc/self/oom_score_adj; test \"$(cut -d' ' -f6 /proc/$$/stat)\" = $$ && echo leader",
        );
        assert_eq!(seen, "0077\n321\nleader");
    }

    #[test]
    fn a_descriptor_is_inherited_under_its_number() {
        let file = std::fs::File::open("/proc/self/comm").unwrap();
        let setup = ChildSetup { inherit: Some((file.into(), 9)), ..Default::default() };
        assert!(output(setup, "readlink /proc/self/fd/9").ends_with("/comm"));
    }

    #[test]
    fn parent_death_signal_survives_the_change_of_user() {
        let credentials = Credentials::of_user("nobody").unwrap().filter(|_| rustix::process::geteuid().is_root());
        let uid = credentials.as_ref().map_or(rustix::process::geteuid().as_raw(), |credentials| credentials.uid);
        let setup = ChildSetup { credentials, parent_death_signal: Some(Signal::KILL), ..Default::default() };
        assert_eq!(output(setup, "id -u"), uid.to_string());
    }

    #[test]
    fn an_unknown_user_is_none() {
        assert_eq!(Credentials::of_user("no-such-user-here").unwrap(), None);
    }
}
