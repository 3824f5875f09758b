//! The inner guard: parent of the postmaster and of the agent, holder of the deadline.
//!
//! One loop around `poll`. Each turn looks at the clock first and at the agent's wishes last, so that a guard that was
//! itself away for a while kills before it listens.

use std::io;

use pgbaton_sys::cgroup::Leaf;
use pgbaton_sys::clock::boottime;
use pgbaton_sys::pidfd::PidFd;
use pgbaton_sys::process::{self, Reap, Reaped};
use pgbaton_sys::proctree::ProcTree;
use pgbaton_sys::seqpacket::Received;
use pgbaton_sys::signals::SignalFd;
use pgbaton_sys::timer::{DeadlineTimer, Wake, wait_readable};
use pgbaton_sys::{Pid, Signal};
use std::os::fd::AsFd as _;

use crate::agent_process::{Agent, AgentCommand};
use crate::lease::Lease;
use crate::note::note;
use crate::page::Page;
use crate::server::Server;
use crate::wire::{MAX_PACKET, Refusal, Reply, Request, Rights, Status};
use crate::{EXIT_CONFIGURATION, EXIT_LEAVES, outer};

/// Pause between two looks while killing, nanoseconds: short, because K counts; each look is also woken by a child's end.
const KILL_TICK: u64 = 5_000_000;

/// Most requests served before the clock is looked at again.
const REQUESTS_PER_TURN: usize = 16;

/// What the outer guard prepared for each inner one.
pub(crate) struct Shared<'a> {
    pub(crate) page: &'a Page,
    pub(crate) command: &'a AgentCommand,
    pub(crate) leaf: Option<&'a Leaf>,
    pub(crate) rights: Rights,
    pub(crate) oom_score_adj: Option<i16>,
    pub(crate) outer: &'a PidFd,
    pub(crate) outer_pid: Pid,
    pub(crate) armed: &'a Wake,
    /// Nanoseconds that the agent has to end after SIGTERM.
    pub(crate) stop_timeout: u64,
}

/// Runs until the guard is to end; the result is the process's exit code.
pub(crate) fn run(shared: &Shared<'_>) -> u8 {
    let result = Inner::new(shared).and_then(|mut inner| inner.run());
    match result {
        Ok(code) => code,
        Err(error) => {
            // The outer guard kills everything and begins anew.
            note(format_args!("inner guard failed: {error}"));
            1
        }
    }
}

struct Inner<'a> {
    shared: &'a Shared<'a>,
    rights: Rights,
    signals: SignalFd,
    timer: DeadlineTimer,
    lease: Lease,
    server: Server<'a>,
    agent: Agent<'a>,
    /// When SIGTERM has come: the time by which the agent must have ended.
    stop_by: Option<u64>,
    /// The exit code to end with, as soon as nothing runs any more.
    finish: Option<u8>,
    /// The agent has left the server to an operator: this process only stays as its parent.
    left: bool,
    /// The agent has closed its socket; it is not polled any more.
    deaf: bool,
    buffer: Box<[u8]>,
}

impl<'a> Inner<'a> {
    fn new(shared: &'a Shared<'a>) -> io::Result<Self> {
        process::become_subreaper()?;
        process::set_name(c"pgbaton-guard")?;
        // Out of the terminal's foreground group: Ctrl-C reaches the outer guard, which passes it on once.
        process::new_session()?;
        let own = outer::own_rights();
        let rights = Rights {
            fifo: own.fifo && shared.rights.fifo,
            memory_locked: own.memory_locked && shared.rights.memory_locked,
            ..shared.rights
        };
        Ok(Self {
            shared,
            rights,
            signals: SignalFd::new(&outer::SIGNALS)?,
            timer: DeadlineTimer::new()?,
            lease: Lease { epoch: shared.page.epoch(), ..Lease::default() },
            server: Server::new(shared.page, shared.leaf, shared.oom_score_adj)?,
            agent: Agent::new(shared.command, shared.oom_score_adj, boottime()),
            stop_by: None,
            finish: None,
            left: false,
            deaf: false,
            buffer: vec![0; MAX_PACKET].into_boxed_slice(),
        })
    }

    fn run(&mut self) -> io::Result<u8> {
        loop {
            self.enforce(boottime());
            if !self.left && self.shared.outer.ended(0)? {
                return self.without_outer();
            }
            self.signals()?;
            self.reap()?;
            self.requests();
            if self.server.drive(self.agent.pid()) {
                self.server_gone();
            }
            let now = boottime();
            self.stop_late(now);
            self.agent.start_if_due(now);
            if self.left && !self.server.facts().alive {
                return Ok(0);
            }
            if let Some(code) = self.finish
                && self.agent.pid().is_none()
                && !self.server.facts().alive
            {
                self.shared.page.set_verdict(code);
                return Ok(code);
            }
            self.wait()?;
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let now = boottime();
        let facts = self.server.facts();
        let tick = facts.killing.then(|| now + KILL_TICK);
        let deadline = self.lease.deadline.filter(|_| !facts.killing);
        let stop = self.stop_by.filter(|_| self.finish.is_none());
        let next = [tick, deadline, stop, self.agent.start_at()].into_iter().flatten().min();
        self.timer.drain()?;
        self.timer.set(next)?;
        let socket = self.agent.socket().filter(|_| !self.deaf);
        wait_readable(&[
            Some(self.signals.as_fd()),
            Some(self.timer.as_fd()),
            Some(self.shared.outer.as_fd()).filter(|_| !self.left),
            socket,
        ])?;
        Ok(())
    }

    /// Kills the server if the deadline has come.
    fn enforce(&mut self, now: u64) {
        if !self.lease.expired(now) {
            return;
        }
        let facts = self.server.facts();
        if !facts.alive {
            self.lease.lapse();
            self.shared.page.set_deadline(None);
        } else if !facts.killing {
            self.server.enforce(self.agent.pid());
            note(format_args!("the lease of epoch {} ran out: server killed", self.lease.epoch));
        }
    }

    fn signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.next()? {
            if signal == Signal::HUP.as_raw() {
                self.agent.signal(Signal::HUP);
            } else if signal != Signal::CHILD.as_raw() {
                self.stop();
            }
        }
        Ok(())
    }

    /// Asks the agent to stop the server, hand over and end.
    fn stop(&mut self) {
        if self.stop_by.is_none() {
            self.stop_by = Some(boottime().saturating_add(self.shared.stop_timeout));
        }
        self.agent.signal(Signal::TERM);
        if self.agent.pid().is_none() {
            // Nobody is there to stop the server in an orderly way, and nobody shall come any more.
            let code = u8::from(self.server.facts().alive);
            self.end(code);
        }
    }

    fn stop_late(&mut self, now: u64) {
        if self.finish.is_none() && self.stop_by.is_some_and(|by| now >= by) {
            self.agent.signal(Signal::KILL);
            self.end(1);
            note(format_args!("the agent did not end in time: everything killed"));
        }
    }

    /// Ends with `code` once nothing runs any more, and sees to that.
    fn end(&mut self, code: u8) {
        self.finish = Some(code);
        self.agent.give_up();
        let facts = self.server.facts();
        if facts.alive && !facts.killing {
            self.server.begin_kill(self.agent.pid());
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Reap::Ended(reaped) = process::reap()? {
            if self.agent.pid() == Some(reaped.pid) {
                self.agent_ended(reaped);
            } else if let Some(exit) = self.server.reaped(reaped, self.agent.pid()) {
                self.agent.send(0, &Reply::ServerExited(exit));
            }
        }
        Ok(())
    }

    fn agent_ended(&mut self, reaped: Reaped) {
        let now = boottime();
        let code = process::exit_code(reaped.status);
        let finish = match code {
            _ if self.finish.is_some() => self.finish,
            Some(EXIT_LEAVES) if self.may_leave() => return self.leave(now),
            Some(0 | EXIT_LEAVES) => Some(0),
            _ if self.stop_by.is_some() => Some(1),
            Some(EXIT_CONFIGURATION) if !self.shared.page.ready() => Some(EXIT_CONFIGURATION),
            _ => None,
        };
        self.agent.ended(now, finish.is_none());
        self.deaf = false;
        self.server.kill_session(reaped.pid);
        if let Some(code) = finish {
            if self.server.facts().alive && self.finish.is_none() {
                note(format_args!("the agent has ended and left a server: killing it"));
            }
            self.end(code);
        } else if let Some(signal) = process::ending_signal(reaped.status) {
            note(format_args!("the agent was ended by signal {signal}; starting it again"));
        } else {
            note(format_args!("the agent exited with {}; starting it again", code.unwrap_or(0)));
        }
    }

    /// No deadline is held for the server, and nobody kills it.
    fn may_leave(&self) -> bool {
        let facts = self.server.facts();
        facts.alive && !facts.killing && self.lease.deadline.is_none()
    }

    /// The agent has ended and left the server to an operator.
    fn leave(&mut self, now: u64) {
        note(format_args!(
            "the agent has ended in maintenance mode: the server goes on, and nobody enforces anything on it"
        ));
        self.agent.ended(now, false);
        self.stop_by = None;
        self.left = true;
        self.shared.page.set_left();
        if let Err(error) = self.shared.armed.raise() {
            note(format_args!("the outer guard was not woken: {error}"));
        }
    }

    /// The last process of the server has gone.
    fn server_gone(&mut self) {
        if self.lease.expired(boottime()) {
            self.lease.lapse();
            self.shared.page.set_deadline(None);
        }
        self.agent.send(0, &Reply::TreeEmpty);
    }

    fn requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            // Taken out for the time of the call, because a request borrows from it while it changes `self`.
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.agent.receive(&mut buffer);
            match received {
                Some(Received::Packet(length)) => {
                    let (sequence, request) = Request::decode(&buffer[..length]);
                    let reply = match request {
                        Ok(request) => {
                            self.answer(&request).unwrap_or_else(|(why, number)| Reply::Refused(why, number))
                        }
                        Err(_) => Reply::Refused(Refusal::NotUnderstood, 0),
                    };
                    self.agent.send(sequence, &reply);
                }
                Some(_) => self.agent.send(0, &Reply::Refused(Refusal::NotUnderstood, 0)),
                None => self.deaf = self.agent.closed(),
            }
            self.buffer = buffer;
            if received.is_none() {
                return;
            }
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<Reply, (Refusal, i32)> {
        let now = boottime();
        // Requests that follow each other in one turn must not slip past a deadline.
        self.enforce(now);
        let facts = self.server.facts();
        let refused = |refusal| (refusal, 0);
        match request {
            Request::Status => return Ok(Reply::Status(self.status())),
            Request::Ready => self.shared.page.set_ready(),
            Request::Signal(signal) => self.server.signal(*signal)?,
            Request::Kill if facts.alive => self.server.begin_kill(self.agent.pid()),
            Request::Kill => return Err(refused(Refusal::NoServer)),
            Request::Disarm(reason) => {
                self.lease.disarm(facts, *reason).map_err(refused)?;
                self.shared.page.set_deadline(None);
            }
            Request::Extend { epoch, deadline } => {
                let before = self.lease.deadline;
                self.lease.extend(now, facts, *epoch, *deadline).map_err(refused)?;
                self.server.armed();
                self.shared.page.set_epoch(*epoch);
                self.shared.page.set_deadline(Some(*deadline));
                // The outer guard looks again at the old deadline by itself.
                if before.is_none_or(|before| *deadline < before) {
                    self.shared.armed.raise().map_err(|error| (Refusal::System, error.raw_os_error().unwrap_or(0)))?;
                }
            }
            Request::Start(_) if facts.alive => return Err(refused(Refusal::ServerThere)),
            Request::Start(_) if self.finish.is_some() => return Err(refused(Refusal::Stopping)),
            Request::Start(start) if start.primary && !self.lease.permits_primary(now) => {
                return Err(refused(Refusal::NotArmed));
            }
            Request::Start(start) => {
                let armed = self.lease.deadline.is_some();
                return Ok(Reply::Started(self.server.start(start, armed, self.agent.pid())?));
            }
        }
        Ok(Reply::Ack)
    }

    fn status(&self) -> Status {
        let facts = self.server.facts();
        Status {
            inner: process::own_pid().as_raw_nonzero().get(),
            outer: self.shared.outer_pid.as_raw_nonzero().get(),
            postmaster: self.server.postmaster(),
            tree_alive: facts.alive,
            killing: facts.killing,
            deadline: self.lease.deadline,
            epoch: self.lease.epoch,
            paused: self.lease.paused,
            rights: self.rights,
            last_exit: self.server.last_exit(),
        }
    }

    /// The outer guard is dead: nothing here may outlive this process. The service manager begins anew.
    fn without_outer(&mut self) -> io::Result<u8> {
        if let Some(leaf) = self.shared.leaf {
            // What the cgroup does not kill, the loop does.
            let _ = leaf.kill();
        }
        outer::kill_all(&mut ProcTree::new(), &self.timer)?;
        note(format_args!("the outer guard died: everything killed"));
        Ok(1)
    }
}
