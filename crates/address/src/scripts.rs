//! What is run and written at each change, in order, on threads of their own: nobody waits for a script or a disk.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_sys::command::Run;
use pgbaton_types::{Epoch, chain};

use crate::settings::{Scripts, Settings};
use crate::state_file;

/// So long who gives the address up waits for the state file. A local file takes a few milliseconds; a disk that hangs shall not keep this host from
/// ever holding the address again.
const FILE_WITHIN: Duration = Duration::from_secs(1);

/// What this host is, in keepalived's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has the address.
    Master(Epoch),
    /// It is to have the address, and cannot.
    Fault(Epoch),
    /// It is not to have it.
    Backup,
    /// The agent ends.
    Stop,
}

impl State {
    /// The argument of `notify` (keepalived.conf(5): always in capitals).
    fn word(self) -> &'static str {
        match self {
            Self::Master(_) => "MASTER",
            Self::Fault(_) => "FAULT",
            Self::Backup => "BACKUP",
            Self::Stop => "STOP",
        }
    }

    fn is_primary(self) -> Option<Epoch> {
        match self {
            Self::Master(epoch) | Self::Fault(epoch) => Some(epoch),
            Self::Backup | Self::Stop => None,
        }
    }
}

/// The threads that are told of changes; they end after the last one that they were told of, when this is dropped.
///
/// The state file has one of its own: what tracks it shall not wait for scripts, nor the address for a disk.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    scripts: Option<Sender<State>>,
    file: Option<Sender<(State, Written)>>,
    threads: Vec<JoinHandle<()>>,
}

/// Says that the state file was written, or that it could not be.
type Written = Sender<()>;

impl Runner {
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        let mut this = Self::default();
        if let Some(path) = settings.state_file.clone() {
            this.file = Some(this.begin("address state", move |changes| keep_file(&path, changes))?);
        }
        this.scripts = Some(this.begin("address scripts", move |changes| follow(&settings, changes))?);
        Ok(this)
    }

    fn begin<T: Send + 'static>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Receiver<T>) + Send + 'static,
    ) -> io::Result<Sender<T>> {
        let (told, changes) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(crate::keeper::STACK_BYTES);
        self.threads.push(thread.spawn(move || work(&changes))?);
        Ok(told)
    }

    /// Has everything be done that belongs to a change.
    pub(crate) fn tell(&self, state: State) {
        // Each fails only when its thread has panicked, which the log says.
        if let Some(file) = &self.file {
            let (written, awaited) = channel();
            let _ = file.send((state, written));
            if state.is_primary().is_none() {
                // Who gives the address up has done so when what tracks the file can know it, and has nothing to prolong meanwhile.
                if let Err(RecvTimeoutError::Timeout) = awaited.recv_timeout(FILE_WITHIN) {
                    tracing::error!(
                        within_ms = FILE_WITHIN.as_millis(),
                        "the state file is not written yet: what tracks it takes this host for the primary; look at the disk that it is on"
                    );
                }
            }
        }
        if let Some(scripts) = &self.scripts {
            let _ = scripts.send(state);
        }
    }

    /// Lets the threads end and waits for that; whether they ended in order.
    pub(crate) fn finish(self) -> bool {
        drop((self.scripts, self.file));
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

fn keep_file(path: &Path, changes: &Receiver<(State, Written)>) {
    while let Ok((state, written)) = changes.recv() {
        if let Err(error) = state_file::write(path, state.is_primary()) {
            tracing::error!(error = %chain(&error), "the state file was not written: what tracks it does not know who leads");
        }
        // Only who gives the address up waits for it.
        drop(written);
    }
}

fn follow(settings: &Settings, changes: &Receiver<State>) {
    let mut was_up = None;
    while let Ok(state) = changes.recv() {
        let up = matches!(state, State::Master(_));
        // As UCARP: also once at the start, for what a life before has left.
        let turned = was_up.replace(up) != Some(up);
        for command in commands(settings, state, turned) {
            if let Err(error) = (Run { command, within: settings.scripts.within }).run(&[]) {
                tracing::error!(error = %chain(&error), state = state.word(), "a script of the address failed");
            }
        }
    }
}

/// What is run, in this order; `turned`: the host has just got the address, or lost it.
fn commands(settings: &Settings, state: State, turned: bool) -> Vec<Vec<String>> {
    let Scripts { notify, notify_master, notify_backup, notify_fault, notify_stop, priority, up, down, extra, .. } =
        &settings.scripts;
    let mut commands = Vec::new();
    let (carp, own) = match state {
        State::Master(_) => (up, notify_master),
        State::Fault(_) => (down, notify_fault),
        State::Backup => (down, notify_backup),
        State::Stop => (down, notify_stop),
    };
    if let Some(script) = carp.as_ref().filter(|_| turned) {
        for address in &settings.addresses {
            let arguments = [settings.interface.clone(), address.ip.to_string()];
            commands.push(script.iter().cloned().chain(arguments).chain(extra.clone()).collect());
        }
    }
    commands.extend(own.clone());
    if let Some(script) = notify {
        let arguments = ["INSTANCE", &settings.name, state.word(), &priority.to_string()].map(str::to_owned);
        commands.push(script.iter().cloned().chain(arguments).collect());
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ManagedBy, Prefixed};

    fn settings() -> Settings {
        let script = |name: &str| Some(vec![name.to_owned()]);
        Settings {
            name: "main".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![
                Prefixed { ip: "10.0.0.9".parse().unwrap(), prefix: 24 },
                Prefixed { ip: "fd00::9".parse().unwrap(), prefix: 64 },
            ],
            managed_by: ManagedBy::Scripts,
            announce_interval: Duration::from_secs(30),
            state_file: None,
            scripts: Scripts {
                notify: Some(vec!["notify".to_owned(), "own".to_owned()]),
                notify_master: script("master"),
                notify_fault: script("fault"),
                priority: 100,
                up: script("up"),
                down: script("down"),
                extra: Some("x".to_owned()),
                within: Duration::from_secs(1),
                ..Scripts::default()
            },
        }
    }

    fn lines(state: State, turned: bool) -> Vec<String> {
        commands(&settings(), state, turned).iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn a_disk_that_hangs_is_not_waited_for_without_end() {
        // Whoever writes the file never comes to it.
        let (file, hangs) = channel();
        let runner = Runner { file: Some(file), ..Runner::default() };
        runner.tell(State::Backup);
        let (state, _written) = hangs.try_recv().unwrap();
        assert_eq!(state, State::Backup);
    }

    #[test]
    fn scripts_get_the_arguments_of_ucarp_and_keepalived() {
        assert_eq!(
            lines(State::Master(Epoch(5)), true),
            ["up eth0 10.0.0.9 x", "up eth0 fd00::9 x", "master", "notify own INSTANCE main MASTER 100"]
        );
        assert_eq!(
            lines(State::Backup, true),
            ["down eth0 10.0.0.9 x", "down eth0 fd00::9 x", "notify own INSTANCE main BACKUP 100"]
        );
    }

    #[test]
    fn who_never_had_the_address_is_not_taken_down_again() {
        assert_eq!(lines(State::Fault(Epoch(5)), false), ["fault", "notify own INSTANCE main FAULT 100"]);
        assert_eq!(lines(State::Stop, false), ["notify own INSTANCE main STOP 100"]);
    }
}
