//! A cgroup (version 2) of our own below the one we are in, so that all its processes can be killed in one step.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Beginning of the names of our cgroups; the number of the process that made it follows.
const PREFIX: &str = "pgbaton-";

/// A cgroup without processes of ours but those put there; removed when dropped, if it is empty then.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    procs: File,
    kill: File,
}

impl Leaf {
    /// Makes a cgroup below this process's own. Fails where cgroups of version 2 are not mounted, are not delegated to this
    /// user, or have no `cgroup.kill` (kernels before 5.14).
    pub fn create() -> io::Result<Self> {
        let parent = own_directory()?;
        remove_abandoned(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let open = |name| File::options().write(true).open(path.join(name));
        match open("cgroup.procs").and_then(|procs| Ok((procs, open("cgroup.kill")?))) {
            Ok((procs, kill)) => Ok(Self { path, procs, kill }),
            Err(error) => {
                // The first error says more than a failure to tidy up after it.
                let _ = std::fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// A descriptor of `cgroup.procs`: a process that writes `0` to it moves into the cgroup.
    pub fn procs(&self) -> io::Result<OwnedFd> {
        self.procs.as_fd().try_clone_to_owned()
    }

    /// Sends SIGKILL to every process in the cgroup, in one step that none can fork its way out of. Allocates nothing.
    pub fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    /// Removes the cgroup, which must be empty.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_dir(&self.path)
    }
}

/// The directory of this process's cgroup of version 2; an error where there is none.
pub fn own_directory() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    directory(&mounts, &own).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Joins the mount point of the `cgroup2` file system with the path of the hierarchy `0::` (`cgroups(7)`).
fn directory(mounts: &str, own: &str) -> Option<PathBuf> {
    let (root, mount_point) = mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        file_system.starts_with("cgroup2 ").then_some((fields.next()?, fields.next()?))
    })?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    // In a container the mount may show only a part of the hierarchy.
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(mount_point).join(below))
}

/// Removes the empty cgroups of processes that are gone. Best effort: what stays is an empty directory.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if number.parse::<u32>().is_ok() && !Path::new("/proc").join(number).exists() {
            // Not empty, or another process was faster: both are fine.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::directory;

    #[test]
    fn the_directory_is_found_on_pure_and_mixed_hosts() {
        let pure = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            directory(pure, "0::/system.slice/pgbaton.service\n"),
            Some(PathBuf::from("/sys/fs/cgroup/system.slice/pgbaton.service"))
        );
        let mixed = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup \
                     cgroup rw,name=systemd\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directory(mixed, "8:pids:/\n0::/\n"), Some(PathBuf::from("/sys/fs/cgroup/unified/")));
    }

    #[test]
    fn without_version_two_there_is_none() {
        assert_eq!(directory("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "0::/\n"), None);
        assert_eq!(directory("41 31 0:38 / /c rw - cgroup2 cgroup2 rw\n", "8:pids:/\n"), None);
    }
}
