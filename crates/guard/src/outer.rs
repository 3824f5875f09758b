//! The outer guard: the service's main process. It waits, and is there for the case that the inner guard is not.

use std::io;
use std::os::fd::AsFd as _;

use pgbaton_sys::cgroup::Leaf;
use pgbaton_sys::clock::boottime;
use pgbaton_sys::pidfd::PidFd;
use pgbaton_sys::process::{self, Reap};
use pgbaton_sys::proctree::ProcTree;
use pgbaton_sys::rights;
use pgbaton_sys::signals::SignalFd;
use pgbaton_sys::timer::{DeadlineTimer, Wake, wait_readable};
use pgbaton_sys::{Pid, Signal};

use crate::agent_process::{AgentCommand, Restarts};
use crate::inner::{self, Shared};
use crate::note::note;
use crate::page::Page;
use crate::wire::Rights;
use crate::{GuardError, OUTER_GRACE};

/// Signals that both guards read from a descriptor.
pub(crate) const SIGNALS: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

/// Pause between two rounds of killing, nanoseconds.
const KILL_TICK: u64 = 5_000_000;

/// How long the inner guard has beyond the agent's time to end, nanoseconds, before the outer one kills everything.
const STOP_GRACE: u64 = 1_000_000_000;

/// How recent the inner guard's last round of killing must be, nanoseconds, for the outer one to leave it to that: many
/// ticks of the inner guard.
const KILLING_LATELY: u64 = 200_000_000;

/// Takes what rights the system gives to the calling process, by and by, since each may be refused by itself.
pub(crate) fn own_rights() -> Rights {
    Rights {
        fifo: rights::schedule_fifo().is_ok(),
        memory_locked: rights::lock_memory().is_ok(),
        // The score is inherited by the inner guard, and both checked by value there.
        oom_exempt: rights::never_oom_kill().is_ok(),
        cgroup: false,
    }
}

/// Runs both guards until the agent is done; the result is the process's exit code.
pub(crate) fn run(command: &AgentCommand, stop_timeout: u64) -> Result<u8, GuardError> {
    let prepare = |step| move |source| GuardError::Prepare { step, source };
    process::become_subreaper().map_err(prepare("become the reaper of orphans"))?;
    process::set_name(c"pgbaton-outer").map_err(prepare("set its name"))?;
    let own = process::own_pid();
    pgbaton_sys::proctree::stat(own).map_err(prepare("read /proc"))?;
    let oom_score_adj = rights::oom_score_adj().ok();
    // Without a cgroup of our own the server is killed process by process.
    let leaf = Leaf::create().ok();
    let page = Page::new().map_err(prepare("share memory"))?;
    let held = PidFd::open(own).map_err(prepare("hold itself by a descriptor"))?;
    let armed = Wake::new().map_err(prepare("make a counter"))?;
    let signals = SignalFd::new(&SIGNALS).map_err(prepare("read signals"))?;
    let timer = DeadlineTimer::new().map_err(prepare("make a timer"))?;
    let shared = Shared {
        page: &page,
        command,
        leaf: leaf.as_ref(),
        rights: Rights { cgroup: leaf.is_some(), ..own_rights() },
        oom_score_adj,
        outer: &held,
        outer_pid: own,
        armed: &armed,
        stop_timeout,
    };
    let mut outer = Outer { shared: &shared, signals, timer, processes: ProcTree::new(), stop_by: None };
    let code = outer.run().map_err(prepare("go on"));
    if let Some(leaf) = &leaf {
        // It is empty; at worst an empty directory stays until the next guard starts.
        let _ = leaf.remove();
    }
    code
}

struct Outer<'a> {
    shared: &'a Shared<'a>,
    signals: SignalFd,
    timer: DeadlineTimer,
    processes: ProcTree,
    /// When SIGTERM has come: the time by which everything must have ended.
    stop_by: Option<u64>,
}

impl Outer<'_> {
    fn run(&mut self) -> io::Result<u8> {
        let mut restarts = Restarts::default();
        loop {
            restarts.started(boottime());
            let inner = process::fork(|| inner::run(self.shared))?;
            self.watch(inner)?;
            if self.shared.page.left() {
                return Ok(0);
            }
            self.sweep()?;
            if let Some(code) = self.shared.page.verdict() {
                return Ok(code);
            }
            if self.stop_by.is_some() {
                return Ok(1);
            }
            note(format_args!("the inner guard died: everything killed, beginning anew"));
            if self.pause(restarts.next(boottime()))? {
                return Ok(1);
            }
        }
    }

    /// Returns when the inner guard has ended, or was killed together with everything else.
    fn watch(&mut self, inner: Pid) -> io::Result<()> {
        while !self.shared.page.left() {
            let now = boottime();
            let next = match self.due(now) {
                Due::Kill => return Ok(()),
                Due::Look(next) => next,
            };
            self.timer.drain()?;
            self.timer.set(next)?;
            let ready = [self.signals.as_fd(), self.timer.as_fd(), self.shared.armed.as_fd()].map(Some);
            wait_readable(&ready)?;
            self.shared.armed.drain()?;
            self.take_signals(Some(inner))?;
            loop {
                match process::reap()? {
                    Reap::Ended(reaped) if reaped.pid == inner => return Ok(()),
                    Reap::Ended(_) => {}
                    Reap::Running => break,
                    Reap::NoChildren => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Whether it is time to kill everything, else when to look again.
    fn due(&self, now: u64) -> Due {
        let grace = u64::try_from(OUTER_GRACE.as_nanos()).unwrap_or(u64::MAX);
        let page = self.shared.page;
        let stop = self.stop_by.map(|by| by.saturating_add(STOP_GRACE));
        if stop.is_some_and(|by| now >= by) {
            return Due::Kill;
        }
        let look = page.deadline().map(|deadline| {
            let limit = deadline.saturating_add(grace);
            if now < limit {
                return Ok(limit);
            }
            // The inner guard is at it, or has nothing to kill and clears the deadline in a moment.
            let at_it = page.last_kill() >= deadline && now.saturating_sub(page.last_kill()) < KILLING_LATELY;
            if at_it || !page.tree_alive() { Ok(now.saturating_add(grace)) } else { Err(()) }
        });
        match look {
            Some(Err(())) => Due::Kill,
            Some(Ok(at)) => Due::Look(Some(stop.map_or(at, |stop| stop.min(at)))),
            None => Due::Look(stop),
        }
    }

    fn take_signals(&mut self, inner: Option<Pid>) -> io::Result<()> {
        while let Some(signal) = self.signals.next()? {
            if signal == Signal::CHILD.as_raw() {
                continue;
            }
            let hangup = signal == Signal::HUP.as_raw();
            if !hangup && self.stop_by.is_none() {
                self.stop_by = Some(boottime().saturating_add(self.shared.stop_timeout));
            }
            if let Some(inner) = inner {
                // It is our child and not reaped; when it has just ended, there is nobody to tell.
                let _ = process::send(inner, if hangup { Signal::HUP } else { Signal::TERM });
            }
        }
        Ok(())
    }

    /// Kills everything below, to the last process.
    fn sweep(&mut self) -> io::Result<()> {
        if let Some(leaf) = self.shared.leaf {
            // What the cgroup does not kill, the loop does.
            let _ = leaf.kill();
        }
        kill_all(&mut self.processes, &self.timer)?;
        self.shared.page.forget_server();
        Ok(())
    }

    /// Waits until `until`; true when SIGTERM came in the meantime.
    fn pause(&mut self, until: u64) -> io::Result<bool> {
        loop {
            self.take_signals(None)?;
            if self.stop_by.is_some() || boottime() >= until {
                return Ok(self.stop_by.is_some());
            }
            self.timer.drain()?;
            self.timer.set(Some(until))?;
            wait_readable(&[Some(self.signals.as_fd()), Some(self.timer.as_fd())])?;
        }
    }
}

enum Due {
    Kill,
    Look(Option<u64>),
}

/// Kills and reaps everything below this process until it has no children. As this process reaps orphans, no child means
/// no process at all.
pub(crate) fn kill_all(processes: &mut ProcTree, timer: &DeadlineTimer) -> io::Result<()> {
    loop {
        if let Err(error) = processes.kill(process::own_pid(), None) {
            note(format_args!("cannot look for processes to kill: {error}"));
        }
        loop {
            match process::reap()? {
                Reap::Ended(_) => {}
                Reap::Running => break,
                Reap::NoChildren => return Ok(()),
            }
        }
        timer.drain()?;
        timer.set(Some(boottime().saturating_add(KILL_TICK)))?;
        wait_readable(&[Some(timer.as_fd())])?;
    }
}
