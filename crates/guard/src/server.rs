//! The server as children of the inner guard: started, signalled, and killed to the last process.

use std::io;

use pgbaton_sys::cgroup::Leaf;
use pgbaton_sys::child::ChildSetup;
use pgbaton_sys::process::{Reaped, own_pid};
use pgbaton_sys::proctree::{self, ProcTree};
use pgbaton_sys::spawn::{StringTable, spawn};
use pgbaton_sys::{Pid, Signal};

use crate::lease::Tree;
use crate::note::note;
use crate::page::Page;
use crate::wire::{MAX_ARGUMENTS, MAX_ENVIRONMENT, Postmaster, Refusal, ServerExit, Start};

/// Looks in a row that must find nothing before the server counts as gone: a process may change its parent while the
/// first one is taken.
const EMPTY_LOOKS: u8 = 2;

/// All processes of one server, and what is known of it.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    page: &'a Page,
    leaf: Option<&'a Leaf>,
    setup: ChildSetup,
    processes: ProcTree,
    postmaster: Option<(Pid, Postmaster)>,
    facts: Tree,
    empty_looks: u8,
    enforced: bool,
    last_exit: Option<ServerExit>,
}

impl<'a> Server<'a> {
    pub(crate) fn new(page: &'a Page, leaf: Option<&'a Leaf>, oom_score_adj: Option<i16>) -> io::Result<Self> {
        let setup = ChildSetup {
            new_session: true,
            stdin_null: true,
            oom_score_adj,
            // What the agent may do to the host's addresses is nothing for a database.
            drop_ambient_capabilities: true,
            cgroup_procs: leaf.map(Leaf::procs).transpose()?,
            // A first help only: it does not reach the backends.
            parent_death_signal: Some(Signal::KILL),
            ..ChildSetup::default()
        };
        Ok(Self {
            page,
            leaf,
            setup,
            processes: ProcTree::new(),
            postmaster: None,
            facts: Tree::default(),
            empty_looks: 0,
            enforced: false,
            last_exit: None,
        })
    }

    pub(crate) fn facts(&self) -> Tree {
        self.facts
    }

    pub(crate) fn postmaster(&self) -> Option<Postmaster> {
        self.postmaster.map(|(_, postmaster)| postmaster)
    }

    pub(crate) fn last_exit(&self) -> Option<ServerExit> {
        self.last_exit
    }

    /// A deadline is held from now on.
    pub(crate) fn armed(&mut self) {
        self.facts.ran_armed |= self.facts.alive;
    }

    /// Starts a postmaster; `armed` says whether a deadline is held.
    pub(crate) fn start(
        &mut self,
        start: &Start<'_>,
        armed: bool,
        agent: Option<Pid>,
    ) -> Result<Postmaster, (Refusal, i32)> {
        let mut strings = start.strings();
        let directory = strings.next();
        let mut arguments = StringTable::<MAX_ARGUMENTS>::new();
        let mut environment = StringTable::<MAX_ENVIRONMENT>::new();
        let mut fits = true;
        for (place, string) in strings.enumerate() {
            fits &= if place < start.arguments() { arguments.push(string) } else { environment.push(string) };
        }
        let program = arguments.first().filter(|_| fits).ok_or((Refusal::NotUnderstood, 0))?;
        // Before the process exists, so that the outer guard never overlooks one.
        self.page.set_tree_alive(true);
        self.facts = Tree { alive: true, killing: false, primary: start.primary, ran_armed: armed };
        self.enforced = false;
        match spawn(program, &arguments, &environment, directory, &self.setup) {
            Ok(pid) => {
                // Our child, and not reaped: it is there. Should /proc fail, it still must be known as the postmaster.
                let start_ticks = proctree::stat(pid).ok().flatten().map_or(0, |stat| stat.start_ticks);
                let postmaster = Postmaster { pid: pid.as_raw_nonzero().get(), start_ticks };
                self.postmaster = Some((pid, postmaster));
                Ok(postmaster)
            }
            Err(error) => {
                self.begin_kill(agent);
                Err((Refusal::System, error.raw_os_error().unwrap_or(0)))
            }
        }
    }

    /// Sends a signal to the postmaster.
    pub(crate) fn signal(&mut self, signal: u8) -> Result<(), (Refusal, i32)> {
        let (pid, _) = self.postmaster.ok_or((Refusal::NoServer, 0))?;
        let signal = Signal::from_named_raw(i32::from(signal)).ok_or((Refusal::NotUnderstood, 0))?;
        // SIGUSR1 is how a standby is told to look for the file `promote`: from here on it may be a primary.
        self.facts.primary |= signal == Signal::USR1;
        pgbaton_sys::process::send(pid, signal).map_err(|error| (Refusal::System, error.raw_os_error().unwrap_or(0)))
    }

    /// Kills everything now, because the deadline has come.
    pub(crate) fn enforce(&mut self, agent: Option<Pid>) {
        self.enforced = true;
        self.begin_kill(agent);
    }

    /// Begins to kill everything but the agent; [`Server::drive`] goes on until nothing is left.
    pub(crate) fn begin_kill(&mut self, agent: Option<Pid>) {
        self.facts.killing = true;
        self.empty_looks = 0;
        if let Some(leaf) = self.leaf
            && let Err(error) = leaf.kill()
        {
            note(format_args!("cannot kill by cgroup, killing one by one: {error}"));
        }
        if let Some((pid, _)) = self.postmaster {
            // First of all, so that no new backend comes up. It is our child and not reaped.
            let _ = pgbaton_sys::process::send(pid, Signal::KILL);
        }
        self.look(agent);
    }

    /// Goes on killing. True when this look was the one after which the server is gone.
    pub(crate) fn drive(&mut self, agent: Option<Pid>) -> bool {
        if !self.facts.killing || !self.look(agent) {
            return false;
        }
        self.facts = Tree::default();
        self.page.set_tree_alive(false);
        true
    }

    /// Kills all that is seen; true when nothing was seen for the last time needed.
    fn look(&mut self, agent: Option<Pid>) -> bool {
        let seen = self.processes.kill(own_pid(), agent);
        self.page.set_last_kill(pgbaton_sys::clock::boottime());
        match seen {
            Ok(0) if self.postmaster.is_none() => self.empty_looks += 1,
            Ok(_) => self.empty_looks = 0,
            Err(error) => {
                self.empty_looks = 0;
                note(format_args!("cannot look for the server's processes: {error}"));
            }
        }
        self.empty_looks >= EMPTY_LOOKS
    }

    /// A child was reaped. If it was the postmaster, what it left is killed from now on, and its end returned.
    pub(crate) fn reaped(&mut self, reaped: Reaped, agent: Option<Pid>) -> Option<ServerExit> {
        self.postmaster.filter(|(pid, _)| *pid == reaped.pid)?;
        self.postmaster = None;
        let pid = reaped.pid.as_raw_nonzero().get();
        let exit = ServerExit { pid, status: reaped.status, enforced: self.enforced };
        self.last_exit = Some(exit);
        self.begin_kill(agent);
        Some(exit)
    }

    /// Kills what a dead agent left running, told by its session: a `pg_rewind` must not meet the next agent's work.
    pub(crate) fn kill_session(&mut self, session: Pid) {
        // Repeated, since what a killed process leaves becomes our child while we look.
        for _ in 0..4 {
            let mut killed = 0;
            let postmaster = self.postmaster.map(|(pid, _)| pid);
            let seen = self.processes.visit(own_pid(), postmaster, |pid| {
                let Ok(Some(stat)) = proctree::stat(pid) else { return };
                if stat.session == session.as_raw_nonzero().get() && stat.state != b'Z' {
                    killed += 1;
                    // Gone already is as good.
                    let _ = pgbaton_sys::process::send(pid, Signal::KILL);
                }
            });
            if let Err(error) = seen {
                note(format_args!("cannot look for what the agent left: {error}"));
            }
            if killed == 0 {
                return;
            }
        }
    }
}
