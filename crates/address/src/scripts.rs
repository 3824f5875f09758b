//! What is run at each change, in order, on a thread of its own: nobody waits for a script.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use pgbaton_sys::command::Run;
use pgbaton_types::{Epoch, chain};

use crate::settings::{Scripts, Settings};
use crate::state_file;

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

/// The thread; it ends after the last change that it was told of, when this is dropped.
#[derive(Debug)]
pub(crate) struct Runner {
    changes: Sender<State>,
    thread: JoinHandle<()>,
    state_file: Option<PathBuf>,
}

impl Runner {
    pub(crate) fn start(settings: Settings) -> std::io::Result<Self> {
        let (changes, told) = channel();
        let state_file = settings.state_file.clone();
        let thread = std::thread::Builder::new()
            .name("address scripts".to_owned())
            .stack_size(crate::keeper::STACK_BYTES)
            .spawn(move || follow(&settings, &told))?;
        Ok(Self { changes, thread, state_file })
    }

    /// Has everything be done that belongs to a change.
    pub(crate) fn tell(&self, state: State) {
        // Before any script: what tracks it shall not wait for them.
        if let Some(path) = &self.state_file
            && let Err(error) = state_file::write(path, state.is_primary())
        {
            tracing::error!(error = %chain(&error), "the state file was not written: what tracks it does not know who leads");
        }
        // It fails when the thread has panicked, which the log says.
        let _ = self.changes.send(state);
    }

    /// Lets the thread end; the handle says when it has.
    pub(crate) fn finish(self) -> JoinHandle<()> {
        self.thread
    }
}

fn follow(settings: &Settings, told: &Receiver<State>) {
    let mut was_up = None;
    while let Ok(state) = told.recv() {
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
    use std::time::Duration;

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
