use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_testkit::{OsUser, wait};
use rustix::process::{Signal, geteuid};
use serde::{Deserialize, Serialize};

use super::tree::{Identity, kill_at_once};
use crate::cli::Failure;

/// The file that says what runs, and that the directory is a demo's.
const RECORD: &str = "demo.json";

/// The version of that file.
const VERSION: u8 = 1;

/// How long members may take to stop by themselves: a shutdown checkpoint of a small server takes some milliseconds.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What runs. Later demos and `demo --stop` read it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u8,
    /// The demo that wrote it, while it runs.
    demo: Identity,
    /// The outer guard of each member.
    members: Vec<Identity>,
}

/// Where the demo keeps its members' files. One for each user.
#[derive(Debug, Clone)]
pub(super) struct Place {
    directory: PathBuf,
    /// Whom the members run as.
    pub(super) user: OsUser,
}

impl Place {
    /// The place of this user: below the directory for temporary files, which PostgreSQL's user can reach and where the path
    /// of a Unix socket stays short enough.
    pub(super) fn new(given: Option<&Path>) -> Result<Self, Failure> {
        let user = OsUser::for_servers().map_err(|error| Failure::because("no user to run PostgreSQL as", error))?;
        let directory = match given {
            Some(given) => std::path::absolute(given)
                .map_err(|error| Failure::because(format!("cannot use {}", given.display()), error))?,
            None => std::env::temp_dir().join(format!("pgbaton-demo-{}", geteuid().as_raw())),
        };
        Ok(Self { directory, user })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory. One that exists and is no demo's is left alone.
    pub(super) fn make(&self) -> Result<(), Failure> {
        let cannot = |error| Failure::because(format!("cannot make {}", self.directory.display()), error);
        DirBuilder::new().mode(0o711).create(&self.directory).map_err(cannot)?;
        self.record(&[])
    }

    /// Makes a directory inside for one member.
    pub(super) fn member_directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.directory.join(name);
        let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| self.user.own(&path));
        made.map_err(|error| Failure::because(format!("cannot make {}", path.display()), error))?;
        Ok(path)
    }

    /// Writes a file that only the members' user can read.
    pub(super) fn secret_file(&self, path: &Path, text: &str) -> Result<(), Failure> {
        let written = fs::write(path, text)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| self.user.own(path));
        written.map_err(|error| Failure::because(format!("cannot write {}", path.display()), error))
    }

    /// Notes what runs now.
    pub(super) fn record(&self, members: &[Identity]) -> Result<(), Failure> {
        let path = self.directory.join(RECORD);
        let cannot = |error: io::Error| Failure::because(format!("cannot write {}", path.display()), error);
        let own = i32::try_from(std::process::id()).ok().and_then(Identity::of);
        let demo = own.ok_or_else(|| cannot(io::Error::other("/proc does not show this process")))?;
        let record = Record { version: VERSION, demo, members: members.to_vec() };
        let text = serde_json::to_string(&record).map_err(|error| cannot(error.into()))?;
        fs::write(&path, text).map_err(cannot)
    }

    /// Ends whatever an earlier demo left here and removes its files. `false`: there was none.
    pub(super) fn clear(&self) -> Result<bool, Failure> {
        let cannot = |error| Failure::because(format!("cannot use {}", self.directory.display()), error);
        match fs::symlink_metadata(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(cannot(error)),
            Ok(found) if !found.is_dir() || found.uid() != geteuid().as_raw() => {
                return Err(Failure::text(format!(
                    "{} is not a directory of this user: give another one with --dir",
                    self.directory.display()
                )));
            }
            Ok(_) => {}
        }
        let path = self.directory.join(RECORD);
        let record: Option<Record> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(record) = record.filter(|record| record.version == VERSION) else {
            return Err(Failure::text(format!(
                "{} holds no demo (no {RECORD}): remove it, or give another one with --dir",
                self.directory.display()
            )));
        };
        let mine = i32::try_from(std::process::id()).is_ok_and(|pid| pid == record.demo.pid);
        if !mine && record.demo.runs() {
            // It cleans up by itself.
            record.demo.signal(Signal::TERM);
            gone("the end of the other demo", STOP_WITHIN + GONE_WITHIN, &[record.demo])?;
        }
        stop(&record.members)?;
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot(error)),
            _ => Ok(true),
        }
    }
}

/// Stops members, all at once; what does not stop is killed.
fn stop(members: &[Identity]) -> Result<(), Failure> {
    for member in members {
        member.signal(Signal::TERM);
    }
    // Whether they stop in time does not matter: killing what is left follows.
    if gone("the members' end", STOP_WITHIN, members).is_err() {
        for member in members {
            kill_at_once(*member);
        }
    }
    gone("the members' end", GONE_WITHIN, members)
}

fn gone(awaited: &str, limit: Duration, processes: &[Identity]) -> Result<(), Failure> {
    wait::until(awaited, limit, || {
        // Those that this process started must be reaped, or they stay as zombies, which `runs` knows.
        let left: Vec<i32> = processes.iter().filter(|process| process.runs()).map(|process| process.pid).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("processes {left:?}")) }
    })
    .map_err(|error| Failure::because("something does not end", error))
}
