//! The host's side: the small process that adopts, starts, signals and kills.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use rustix::process::{getpid, kill_process, set_child_subreaper, wait, waitid};

use super::{ARGUMENT, Reply, Request, tree};

/// To be called first in the `main` of every program that is used as a [`super::HostProgram`]: returns at once unless
/// this process was started to be a host, and then returns its exit code when it has ended.
pub fn run_if_asked() -> Option<ExitCode> {
    if std::env::args().nth(1).as_deref() != Some(ARGUMENT) {
        return None;
    }
    Some(match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Losing it is right: the owner is told by the exit code as well.
            let _ = writeln!(io::stderr(), "host: {error}");
            ExitCode::FAILURE
        }
    })
}

/// What the thread that answers and the thread that reaps share.
#[derive(Default)]
struct Shared {
    ended: Mutex<BTreeMap<i32, i32>>,
    started: Condvar,
}

fn serve() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let shared = Arc::new(Shared::default());
    let for_reaper = Arc::clone(&shared);
    std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&for_reaper))?;
    for line in io::stdin().lock().lines() {
        // An owner that died in the middle of a line has closed the pipe just as well.
        let Ok(line) = line else { break };
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) => answer(request, &shared),
            Err(error) => Reply::Failed(format!("not a request: {error}")),
        };
        let mut output = io::stdout().lock();
        if writeln!(output, "{}", serde_json::to_string(&reply)?).and_then(|()| output.flush()).is_err() {
            break;
        }
    }
    tree::kill_all();
    Ok(())
}

fn answer(request: Request, shared: &Shared) -> Reply {
    match request {
        Request::Start(launch) => {
            // Held while the standard library starts a process: when that fails it reaps its own child, which the
            // reaper below must not take from it.
            let _ended = lock(shared);
            match launch.spawn(None) {
                Ok(child) => {
                    shared.started.notify_one();
                    Reply::Started { pid: Pid::from_child(&child).as_raw_nonzero().get() }
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    Reply::Failed(format!("{error}: {cause}"))
                }
            }
        }
        Request::Signal { pid, signal } => match (Pid::from_raw(pid), Signal::from_named_raw(signal)) {
            (Some(pid), Some(signal)) => match kill_process(pid, signal) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed(format!("cannot signal process {pid:?}: {error}")),
            },
            _ => Reply::Failed(format!("no process {pid} or no signal {signal}")),
        },
        Request::KillAll => {
            tree::kill_all();
            Reply::Done
        }
        Request::Ended { pid } => Reply::Ended { status: lock(shared).get(&pid).copied() },
        Request::Processes => Reply::Processes(tree::below_own()),
    }
}

/// Reaps everything, the host's own children and every orphan that it adopted, for as long as the host lives.
fn reap(shared: &Shared) {
    loop {
        // Look without taking: a child is taken under the lock only, see `answer`.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let seen = waitid(WaitId::All, look);
        let mut ended = lock(shared);
        match seen {
            Ok(_) => {
                if let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                    ended.insert(pid.as_raw_nonzero().get(), exit_code(status));
                }
            }
            // No child, and under the lock still none: sleep until one is started. Without children of its own there
            // is nothing that could leave it an orphan.
            Err(Errno::CHILD) if matches!(waitid(WaitId::All, look | WaitIdOptions::NOHANG), Err(Errno::CHILD)) => {
                drop(shared.started.wait(ended));
            }
            // A signal came in between, or a child has just been started.
            Err(_) => {}
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, BTreeMap<i32, i32>> {
    shared.ended.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As a shell gives it: the exit code, or 128 plus the number of the signal.
fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(-1)
}
