//! The process that makes this host's clients follow: `pgbaton clients` with the member's own configuration.
//!
//! A process of its own, so that nothing of it can delay a decision: it follows the store by itself. It ends with the agent, and the guard
//! spares both.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pgbaton_guard::client::FD_VARIABLE;
use pgbaton_sys::Signal;
use pgbaton_sys::child::ChildSetup;
use pgbaton_sys::pidfd::PidFd;
use pgbaton_types::BootTime;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// The first and the longest pause before it is started again. It is no part of what keeps the server available, so it may take its time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long sessions through a router may go on when the agent ends: whoever restarts it wants the server back.
pub(crate) const END_TIME: Duration = Duration::from_secs(5);
/// One that ran for this long had started well.
const LIVED: Duration = Duration::from_secs(30);

/// Runs the process while `wanted` says so, and starts it again when it ends; whenever `wanted` is sent anew, it reads its configuration again.
pub(crate) async fn run(config: Option<PathBuf>, mut wanted: watch::Receiver<bool>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        if stop.is_cancelled() {
            return;
        }
        if !*wanted.borrow_and_update() {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let began = clock::now();
        match start(config.as_deref()) {
            Ok(child) => match attend(child, &mut wanted, &stop).await {
                Some(Ok(status)) => tracing::error!(%status, "the process for clients has ended; see above why"),
                Some(Err(error)) => tracing::error!(%error, "the process for clients cannot be waited for"),
                None => continue,
            },
            Err(error) => tracing::error!(%error, "the process for clients cannot be started"),
        }
        if stop.is_cancelled() {
            return;
        }
        pause = next_pause(pause, began, clock::now());
        tokio::select! {
            () = stop.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn next_pause(pause: Duration, began: BootTime, now: BootTime) -> Duration {
    if now.since(began) >= LIVED { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) }
}

fn start(config: Option<&Path>) -> std::io::Result<Child> {
    // The file that this process was started from, also when another version is in its place by now.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("clients").args(config).env_remove(FD_VARIABLE).stdin(Stdio::null());
    // The threads of the services last as long as the agent.
    ChildSetup { parent_death_signal: Some(Signal::KILL), ..ChildSetup::default() }.apply(&mut command);
    Command::from(command).spawn()
}

/// Until it has ended by itself (its status), or as it was told to.
async fn attend(
    mut child: Child,
    wanted: &mut watch::Receiver<bool>,
    stop: &CancellationToken,
) -> Option<std::io::Result<ExitStatus>> {
    loop {
        tokio::select! {
            status = child.wait() => return Some(status),
            () = stop.cancelled() => {
                end(child).await;
                return None;
            }
            changed = wanted.changed() => {
                if changed.is_err() || !*wanted.borrow_and_update() {
                    end(child).await;
                    return None;
                }
                signal(&child, Signal::HUP);
            }
        }
    }
}

/// It lets sessions end by themselves, for a while.
async fn end(mut child: Child) {
    signal(&child, Signal::TERM);
    let ended = match tokio::time::timeout(END_TIME, child.wait()).await {
        Ok(ended) => ended.map(|_| ()),
        Err(_) => child.kill().await,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the process for clients cannot be waited for");
    }
}

fn signal(child: &Child, signal: Signal) {
    let Some(pid) = child.id().and_then(|id| pgbaton_sys::Pid::from_raw(id.cast_signed())) else { return };
    // Not reaped yet: `child` is. So the number is still its.
    let sent = PidFd::open(pid).and_then(|process| process.send(signal));
    if let Err(error) = sent {
        tracing::error!(%error, "the process for clients cannot be signalled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_it_has_lived() {
        let (began, soon) = (BootTime(0), BootTime(1_000_000));
        assert_eq!(next_pause(FIRST_PAUSE, began, soon), FIRST_PAUSE * 2);
        assert_eq!(next_pause(LONGEST_PAUSE, began, soon), LONGEST_PAUSE);
        assert_eq!(next_pause(LONGEST_PAUSE, began, began + LIVED), FIRST_PAUSE);
    }
}
