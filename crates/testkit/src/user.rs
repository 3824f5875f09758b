//! The operating system's users: PostgreSQL refuses to run as root, so root's tests run it as `postgres`.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Gid, Uid, chown};
use rustix::process::{geteuid, getuid};

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The list of users cannot be read.
    #[error("cannot read /etc/passwd")]
    Read(#[source] io::Error),
    /// There is no such user.
    #[error("there is no user {0} in /etc/passwd; the package postgresql makes it")]
    Unknown(String),
}

/// A user of the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
    /// Its home directory, which need not exist.
    pub home: PathBuf,
}

impl OsUser {
    /// The user that servers run as: `postgres` for root, otherwise whoever runs this process.
    pub fn for_servers() -> Result<Self, UserError> {
        if is_root() { Self::by_name("postgres") } else { Self::find(&getuid().as_raw().to_string(), 2) }
    }

    /// The user of that name.
    pub fn by_name(name: &str) -> Result<Self, UserError> {
        Self::find(name, 0)
    }

    fn find(value: &str, column: usize) -> Result<Self, UserError> {
        let text = fs::read_to_string("/etc/passwd").map_err(UserError::Read)?;
        text.lines()
            .filter_map(parse)
            .find(|(columns, _)| columns[column] == value)
            .map(|(_, user)| user)
            .ok_or_else(|| UserError::Unknown(value.to_owned()))
    }

    /// Makes a command run as this user. Without effect for the user who is running.
    pub fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if is_root() && self.uid != 0 {
            // Supplementary groups are cleared by the standard library when root changes the user.
            command.uid(self.uid).gid(self.gid);
        }
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name)
    }

    /// Gives a file or a directory to this user. Without effect unless root asks.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if is_root() {
            chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        Ok(())
    }
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// One line of `/etc/passwd` (passwd(5)): its columns and what they mean; none for a line that is none.
fn parse(line: &str) -> Option<(Vec<&str>, OsUser)> {
    let columns: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = columns[..] else { return None };
    let user = OsUser { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() };
    Some((columns, user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_user_list_is_read() {
        let (_, user) = parse("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash").unwrap();
        let expected = OsUser { name: "postgres".into(), uid: 101, gid: 104, home: "/var/lib/postgresql".into() };
        assert_eq!(user, expected);
        assert!(parse("+::::::").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = OsUser::by_name("no-such-user-here").unwrap_err();
        assert!(error.to_string().contains("no-such-user-here"));
    }

    #[test]
    fn servers_never_run_as_root() {
        let user = OsUser::for_servers().unwrap();
        let output = user.apply(Command::new("id").arg("-u")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), user.uid.to_string());
        assert_ne!(user.uid, 0);
    }
}
