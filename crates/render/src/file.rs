use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use pgbaton_sys::command::{CommandError, Run};
use pgbaton_sys::durable;
use rustix::fs::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::template::{Template, TemplateError};

/// Who may read what is remembered beside a file.
const STATE_MODE: u32 = 0o644;
/// The version of that format.
const STATE_VERSION: u32 = 1;

/// A file that follows the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub path: PathBuf,
    /// What it is made of.
    pub template: Template,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner and group by number; none: whoever writes it.
    pub owner: Option<(u32, u32)>,
    /// Says whether new content may be used, before it is: `{file}` is a copy of it.
    pub check: Option<Run>,
    /// Tells whoever reads the file that it has changed.
    pub command: Option<Run>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: all is as it should be.
    Unchanged,
    /// Nothing: there is no primary, and who reads this needs one.
    NoPrimary,
    /// Nothing: the file is of a later epoch.
    Older,
    /// The command was run again, which had failed the last time.
    Told,
    /// The file was written, and the command run.
    Written,
}

/// Why a file is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Its content cannot be made.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It cannot be read or written.
    #[error("cannot {step} {}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is remembered beside it cannot be written.
    #[error("the state of a file cannot be kept")]
    State(#[from] durable::DurableError),
    /// The check refuses the new content: the old one stays.
    #[error("{} stays as it was: its check refuses the new content", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the check said.
        #[source]
        source: CommandError,
    },
    /// It was written, but the command failed: it is run again the next time.
    #[error("{} was written, but who reads it was not told", .path.display())]
    NotTold {
        /// The file.
        path: PathBuf,
        /// What the command said.
        #[source]
        source: CommandError,
    },
}

/// What is remembered beside a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u32,
    /// The epoch that the content is of.
    epoch: Option<u64>,
    /// The command has not succeeded since the content changed.
    untold: bool,
}

impl Target {
    /// Brings the file up to date.
    ///
    /// # Errors
    /// [`FileError`]; what it says about the old content holds.
    pub fn apply(&self, context: &Context) -> Result<Outcome, FileError> {
        let kept = self.kept();
        if context.epoch() < kept.as_ref().and_then(|state| state.epoch) && context.epoch().is_some() {
            return Ok(Outcome::Older);
        }
        if self.template.needs_primary() && !context.has_primary() {
            return Ok(Outcome::NoPrimary);
        }
        let text = self.template.render(context)?;
        let present = self.is_present(text.as_bytes())?;
        // Without a command there is nobody to tell any more.
        let untold = self.command.is_some() && kept.as_ref().is_some_and(|state| state.untold);
        let epoch = context.epoch().or(kept.as_ref().and_then(|state| state.epoch));
        let state = |untold| State { version: STATE_VERSION, epoch, untold };
        if present && !untold {
            self.keep(kept.as_ref(), &state(false))?;
            return Ok(Outcome::Unchanged);
        }
        if !present {
            let new = self.write_beside(text.as_bytes())?;
            // Before the file changes: whoever dies in between leaves word that the command is due.
            let due = self.command.is_some();
            let renamed = self
                .keep(kept.as_ref(), &state(due))
                .map_err(FileError::from)
                .and_then(|()| std::fs::rename(&new, &self.path).map_err(|source| self.failed("rename to", source)));
            if let Err(error) = renamed {
                // The first error is the one that tells.
                let _ = std::fs::remove_file(&new);
                return Err(error);
            }
            durable::sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
        }
        if let Some(command) = &self.command {
            let path = self.path.display().to_string();
            command
                .with_file(&path)
                .run(&[])
                .map_err(|source| FileError::NotTold { path: self.path.clone(), source })?;
            self.keep(None, &state(false))?;
        }
        Ok(if present { Outcome::Told } else { Outcome::Written })
    }

    /// Whether the file is there with this content, mode and owner.
    fn is_present(&self, content: &[u8]) -> Result<bool, FileError> {
        let found = match std::fs::read(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(self.failed("read", source)),
        };
        let about = std::fs::metadata(&self.path).map_err(|source| self.failed("read", source))?;
        let owned = self.owner.is_none_or(|owner| owner == (about.uid(), about.gid()));
        Ok(found == content && about.mode() & 0o7777 == self.mode && owned)
    }

    /// Writes new content beside the file and has it checked. Gives where it is.
    fn write_beside(&self, content: &[u8]) -> Result<PathBuf, FileError> {
        let new = self.beside(".pgbaton-new");
        let written =
            self.write_to(&new, content).map_err(|source| FileError::Io { step: "write", path: new.clone(), source });
        let checked = written.and_then(|()| match &self.check {
            Some(check) => check
                .with_file(&new.display().to_string())
                .run(&[])
                .map_err(|source| FileError::Refused { path: self.path.clone(), source }),
            None => Ok(()),
        });
        match checked {
            Ok(()) => Ok(new),
            Err(error) => {
                // The first error is the one that tells.
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }

    fn write_to(&self, new: &Path, content: &[u8]) -> io::Result<()> {
        // One that was left by a crash; whoever else could put something there owns the directory anyway.
        match std::fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Nobody else may read it before it has its owner.
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        if let Some((user, group)) = self.owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// What is remembered; none: nothing, or nothing that can be read, as after a change of the format.
    fn kept(&self) -> Option<State> {
        let bytes = std::fs::read(self.beside(".pgbaton-state")).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|state: &State| state.version == STATE_VERSION)
    }

    fn keep(&self, known: Option<&State>, state: &State) -> Result<(), durable::DurableError> {
        if known == Some(state) {
            return Ok(());
        }
        let mut bytes = serde_json::to_vec(state).unwrap_or_default();
        bytes.push(b'\n');
        durable::replace(&self.beside(".pgbaton-state"), &bytes, STATE_MODE)
    }

    /// A file of another name in the same directory. With a dot before it: programs that read whole directories pass it over.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(suffix);
        self.path.with_file_name(name)
    }

    fn failed(&self, step: &'static str, source: io::Error) -> FileError {
        FileError::Io { step, path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use pgbaton_api::{Baton, ServerAt};
    use pgbaton_types::Epoch;

    use super::*;
    use crate::builtin::BuiltIn;

    fn context(epoch: u64, host: &str) -> Context {
        let primary = ServerAt {
            name: "a".parse().unwrap(),
            host: host.to_owned(),
            port: 5432,
            api: None,
            timeline: None,
            lag: Some(0),
            streaming: false,
            tags: serde_json::Map::new(),
        };
        let baton =
            Baton { scope: "demo".to_owned(), epoch: Some(Epoch(epoch)), primary: Some(primary), ..Baton::default() };
        Context::new(&baton, BTreeMap::new())
    }

    fn run(script: &str) -> Run {
        let command = ["sh", "-c", script, "sh", "{file}"].map(str::to_owned).to_vec();
        Run { command, within: Duration::from_secs(10) }
    }

    fn target(directory: &Path) -> Target {
        Target {
            path: directory.join("out"),
            template: Template::BuiltIn(BuiltIn::Environment),
            mode: 0o640,
            owner: None,
            check: None,
            command: None,
        }
    }

    #[test]
    fn it_is_written_once_and_again_when_the_cluster_changes() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let target =
            Target { command: Some(run(&format!("echo x >> {}", told.display()))), ..target(directory.path()) };
        let times = || std::fs::read_to_string(&told).unwrap_or_default().lines().count();
        assert_eq!(target.apply(&context(5, "h1")).unwrap(), Outcome::Written);
        assert_eq!((target.apply(&context(5, "h1")).unwrap(), times()), (Outcome::Unchanged, 1));
        assert_eq!((target.apply(&context(6, "h2")).unwrap(), times()), (Outcome::Written, 2));
        assert!(std::fs::read_to_string(&target.path).unwrap().contains("PGBATON_PRIMARY_HOST=h2\n"));
        assert_eq!(std::fs::metadata(&target.path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn an_older_epoch_writes_nothing_over_a_newer_one() {
        let directory = tempfile::tempdir().unwrap();
        let target = target(directory.path());
        target.apply(&context(6, "new")).unwrap();
        assert_eq!(target.apply(&context(5, "old")).unwrap(), Outcome::Older);
        assert!(std::fs::read_to_string(&target.path).unwrap().contains("HOST=new"));
    }

    #[test]
    fn a_command_that_failed_is_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let up = directory.path().join("up");
        let target = Target {
            command: Some(run(&format!("test -e {} || {{ echo down >&2; exit 3; }}", up.display()))),
            ..target(directory.path())
        };
        let error = target.apply(&context(5, "h")).unwrap_err();
        let FileError::NotTold { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.to_string(), "sh ended with 3: down");
        let alone = Target { command: None, ..target.clone() };
        assert_eq!(alone.apply(&context(5, "h")).unwrap(), Outcome::Unchanged);
        assert_eq!(target.apply(&context(5, "h")).unwrap(), Outcome::Unchanged, "it is given up for good");
        std::fs::remove_file(&target.path).unwrap();
        assert!(matches!(target.apply(&context(5, "h")), Err(FileError::NotTold { .. })));
        std::fs::write(&up, "").unwrap();
        assert_eq!(target.apply(&context(5, "h")).unwrap(), Outcome::Told);
        assert_eq!(target.apply(&context(5, "h")).unwrap(), Outcome::Unchanged);
    }

    #[test]
    fn what_its_check_refuses_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target { check: Some(run("grep -q good \"$1\"")), ..target(directory.path()) };
        target.apply(&context(5, "good")).unwrap();
        assert!(matches!(target.apply(&context(6, "bad")), Err(FileError::Refused { .. })));
        assert!(std::fs::read_to_string(&target.path).unwrap().contains("good"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "the file and its state");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let slow = Run { command: vec!["sleep".to_owned(), "60".to_owned()], within: Duration::from_millis(50) };
        assert!(matches!(slow.run(&[]), Err(CommandError::Slow { .. })));
    }

    #[test]
    fn what_a_command_has_started_goes_with_it_and_a_daemon_of_it_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let slow = Run { within: Duration::from_secs(2), ..run(&script) };
        assert!(matches!(slow.run(&[]), Err(CommandError::Slow { .. })));
        let gone = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let child = std::fs::read_to_string(&pid).unwrap();
        let looks = 0..1000;
        assert!(looks.into_iter().any(|_| {
            // waits: for the kernel to end a process that was killed
            std::thread::sleep(Duration::from_millis(10));
            gone(child.trim())
        }));

        let daemon = run(&format!("setsid sleep 1000 & echo $! > {}; exit 3", pid.display()));
        assert!(matches!(daemon.run(&[]), Err(CommandError::Failed { .. })));
        let child = std::fs::read_to_string(&pid).unwrap();
        assert!(!gone(child.trim()), "it was waited for");
        let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn all_that_come_with_it_are_made_of_any_cluster() {
        let vars = BTreeMap::from([("interface", "eth0"), ("address", "10.0.0.9/24"), ("member", "a")]);
        let vars: BTreeMap<String, serde_json::Value> =
            vars.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let mut baton = Baton { scope: "demo".to_owned(), ..Baton::default() };
        for template in BuiltIn::ALL.into_iter().filter(|template| !template.needs_primary()) {
            Template::BuiltIn(template).render(&Context::new(&baton, vars.clone())).unwrap();
        }
        baton.epoch = Some(Epoch(5));
        let server = |name: &str| ServerAt {
            name: name.parse().unwrap(),
            host: format!("10.0.0.{}", name.len()),
            port: 5432,
            api: Some("http://10.0.0.1:8008".to_owned()),
            timeline: None,
            lag: None,
            streaming: true,
            tags: serde_json::Map::new(),
        };
        baton.primary = Some(server("a"));
        for standbys in [vec![], vec![server("bb"), server("ccc")]] {
            baton.standbys = standbys;
            for template in BuiltIn::ALL {
                let text = Template::BuiltIn(template).render(&Context::new(&baton, vars.clone())).unwrap();
                assert!(text.contains("demo") && text.ends_with('\n'), "{text}");
            }
        }
    }

    #[test]
    fn an_unknown_variable_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("template");
        std::fs::write(&path, "first\n{{ primray.host }}\n").unwrap();
        let error = Template::File(path).render(&context(5, "h")).unwrap_err();
        assert!(error.to_string().contains("is wrong in line 2"), "{error}");
    }
}
