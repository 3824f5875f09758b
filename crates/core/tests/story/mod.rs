//! The language of the stories. Each line changes what the member sees; `decide` prints what it decides and hands its
//! memory to the next decision. See `tests/stories/README.md`.

mod words;

use std::time::Duration;

use pgbaton_core::observation::{
    Answer, Cluster, ControlState, Database, Directory, FailoverRequest, Finished, Guard, HostFacts, Initialize,
    LeaderKey, Lease, Listed, Local, MemberFacts, Operation, Orders, Outcome, PeerAnswer, PoolerFacts, PrimaryStatus,
    Reservation, Server, StandbyStatus, StoreView, Work,
};
use pgbaton_core::{Action, Address, Decision, Memory, Observation, Settings, Verdict, WithoutPause, decide, safety};
use pgbaton_types::{BootTime, Epoch, Lsn, MemberName, Revision, ShutdownCheckpoint, SystemId, TimelineId};

use words::Words;

/// Plays a story and returns it with the blocks that really came out.
pub(crate) fn run(text: &str) -> Result<String, String> {
    let mut stage = Stage::new();
    let mut out = String::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let words = line.split('#').next().unwrap_or_default().trim();
        if words == "decide" {
            // The block that was told before is replaced by what happens.
            while lines.next_if(|(_, line)| !line.trim().is_empty()).is_some() {}
            out.push_str(&stage.decide());
        } else if words == "address" {
            while lines.next_if(|(_, line)| !line.trim().is_empty()).is_some() {}
            out.push_str(&stage.address());
        } else if words == "asked" {
            while lines.next_if(|(_, line)| !line.trim().is_empty()).is_some() {}
            out.push_str(&stage.asked());
        } else if !words.is_empty() {
            stage.change(&mut Words::new(words)).map_err(|error| format!("line {}: {line:?}: {error}", number + 1))?;
        }
    }
    Ok(out)
}

struct Stage {
    settings: Settings,
    seen: Observation,
    /// Requests told so far: each has a revision of its own.
    requests: u64,
    /// A checkpoint that is asked for takes until it is said to be done.
    checkpoints_are_slow: bool,
}

impl Stage {
    fn new() -> Self {
        let now = BootTime(1_000_000_000_000);
        let seen = Observation {
            now,
            me: words::name("a"),
            local: Local { directory: Directory::Empty, found: None, server: Server::Stopped { since: now } },
            store: StoreView {
                as_of: Some(now),
                revision: Revision(100),
                cluster: Cluster::default(),
                listed: Vec::new(),
            },
            lease: None,
            guard: Guard { alive: true, armed: false },
            peers: std::collections::BTreeMap::new(),
            operation: None,
            finished: None,
            checkpoint: None,
            orders: Orders::default(),
            memory: Memory::default(),
        };
        Self { settings: Settings::default(), seen, requests: 0, checkpoints_are_slow: false }
    }

    fn decide(&mut self) -> String {
        let decision = decide(&self.settings, &self.seen);
        let mut block = String::from("----\n");
        let telling = decision.report.iter().filter(|finding| !matches!(finding.verdict, Verdict::NotApplicable(_)));
        for finding in telling {
            block.push_str(&format!("{finding}\n"));
        }
        for action in &decision.actions {
            block.push_str(&format!("-> {}\n", describe(action)));
        }
        if self.seen.lease.is_some() && !decision.renew {
            block.push_str("-> the lease is not renewed\n");
        }
        for broken in safety::check(&self.settings, &self.seen, &decision) {
            block.push_str(&format!("UNSAFE: {broken}\n"));
        }
        self.carry_over(&decision);
        block
    }

    /// What becomes of the virtual address.
    fn address(&self) -> String {
        match decide(&self.settings, &self.seen).address {
            Address::Held { epoch } => format!("----\nthe address is held in {epoch}\n"),
            Address::Kept { epoch } => format!("----\nthe address is as it was in {epoch}\n"),
            Address::Gone => "----\nthe address is gone\n".to_owned(),
        }
    }

    /// What this member says to others that ask whether it would lead.
    fn asked(&self) -> String {
        let why = decide(&self.settings, &self.seen).unfit;
        format!("----\n{}\n", why.unwrap_or_else(|| "it would lead".to_owned()))
    }

    /// What the executor would have done at once, so that a story need not say it.
    fn carry_over(&mut self, decision: &Decision) {
        self.seen.memory = decision.memory.clone();
        for action in &decision.actions {
            match action {
                Action::CancelOperation => self.seen.operation = None,
                Action::Begin(kind) => {
                    self.seen.finished = None;
                    self.seen.operation = Some(Operation { kind: kind.clone(), since: self.seen.now });
                }
                Action::ReleaseLease { .. } => self.seen.lease = None,
                Action::Checkpoint if !self.checkpoints_are_slow => self.seen.checkpoint = Some(self.seen.now),
                _ => {}
            }
        }
    }

    fn change(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        match words.next()? {
            "me" => self.seen.me = words.name()?,
            "settings" => self.settings(words)?,
            "after" => self.seen.now = self.seen.now + words.duration()?,
            "directory" => self.seen.local.directory = directory(words)?,
            "found" => self.seen.local.found = Some(control_state(words.next()?)?),
            "server" => self.seen.local.server = server(words, self.seen.now)?,
            "guard" => {
                self.seen.guard = Guard { alive: !words.flag("dead"), armed: words.flag("armed") };
                words.flag("disarmed");
            }
            "lease" => self.lease(words)?,
            "store" => self.store(words)?,
            "initialize" => self.seen.store.cluster.initialize = initialize(words)?,
            "leader" => self.leader(words)?,
            "member" => {
                let name = words.name()?;
                let facts = MemberFacts {
                    nofailover: words.flag("nofailover"),
                    has_data: words.flag("data"),
                    primary: words.flag("primary"),
                };
                self.seen.store.cluster.members.insert(name, facts);
            }
            "published" => {
                self.seen.store.cluster.position = words.lsn()?;
                self.seen.store.cluster.history = words.keyed("timeline").map(words::history).transpose()?;
                self.seen.store.cluster.history_epoch = words.keyed("in").map(words::epoch).transpose()?;
            }
            "reserved" => {
                let timeline = TimelineId(words.number()?);
                self.seen.store.cluster.reserved = Some(Reservation { timeline, revision: Revision(50) });
            }
            "failover" => self.failover(words)?,
            "pooler" => self.pooler(words)?,
            "checkpoint" => match words.next()? {
                "slow" => self.checkpoints_are_slow = true,
                "done" => self.seen.checkpoint = Some(self.seen.now),
                other => return Err(format!("{other:?}: slow or done")),
            },
            "listed" => self.listed(words)?,
            "peer" => self.peer(words)?,
            "finished" => self.finished(words)?,
            "operation" => {
                words.flag("none");
                self.seen.operation = None;
            }
            "order" => match words.next()? {
                "terminate" => self.seen.orders.terminate = true,
                "restart" => {
                    self.seen.orders.restart = true;
                    self.seen.orders.start_within = words.keyed("within").map(words::duration).transpose()?;
                }
                "reinitialize" => self.seen.orders.reinitialize = true,
                "none" => self.seen.orders = Orders::default(),
                other => return Err(format!("{other:?} is no order")),
            },
            other => return Err(format!("{other:?} is no word of the stories")),
        }
        words.end()
    }

    /// It answers the asking that is under way.
    fn pooler(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.next()?.to_owned();
        let (holds, cannot, gone) = (words.flag("holds"), words.flag("cannot"), words.flag("gone"));
        let since = self.seen.memory.pausing.map(|pausing| pausing.since);
        let answered = if holds || cannot { since } else { None };
        let poolers = &mut self.seen.store.cluster.poolers;
        if gone {
            poolers.remove(&name);
        } else {
            poolers.insert(name, PoolerFacts { answered, holds });
        }
        Ok(())
    }

    fn settings(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let settings = &mut self.settings;
        settings.paused = words.flag("paused");
        let call_off = words.flag("call_off");
        settings.without_pause = if call_off { WithoutPause::CallOff } else { WithoutPause::Proceed };
        settings.nofailover = words.flag("nofailover");
        settings.use_pg_rewind = words.flag("use_pg_rewind");
        settings.remove_data_on_rewind_failure = words.flag("remove_on_rewind_failure");
        settings.remove_data_on_diverged = words.flag("remove_on_diverged");
        settings.may_bootstrap = !words.flag("no_bootstrap");
        if let Some(seconds) = words.keyed("primary_start_timeout") {
            settings.primary_start_timeout = words::duration(seconds)?;
        }
        if let Some(bytes) = words.keyed("maximum_lag") {
            settings.maximum_lag_on_failover = bytes.parse().map_err(|_| format!("{bytes:?} is no number"))?;
        }
        Ok(())
    }

    fn lease(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        if words.flag("none") {
            self.seen.lease = None;
            return Ok(());
        }
        let epoch = words.epoch()?;
        let left = words::duration(words.keyed("left").unwrap_or("9s"))?;
        let deadline = self.seen.now + left;
        self.seen.lease = Some(Lease { epoch, created: Revision(epoch.0), granted: Duration::from_secs(10), deadline });
        self.seen.store.cluster.leader =
            Some(LeaderKey { member: self.seen.me.clone(), created: Revision(epoch.0), epoch });
        Ok(())
    }

    fn store(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        if let Some(revision) = words.keyed("revision") {
            self.seen.store.revision = Revision(revision.parse().map_err(|_| format!("{revision:?} is no number"))?);
        }
        self.seen.store.as_of = match words.next()? {
            "fresh" => Some(self.seen.now),
            "silent" => Some(self.seen.now - words.duration()?),
            "never" => None,
            other => return Err(format!("{other:?}: fresh, silent TIME or never")),
        };
        Ok(())
    }

    fn leader(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        if words.flag("none") {
            self.seen.store.cluster.leader = None;
            return Ok(());
        }
        let member = words.name()?;
        let epoch = words.epoch()?;
        self.seen.store.cluster.leader = Some(LeaderKey { member, created: Revision(epoch.0), epoch });
        Ok(())
    }

    fn failover(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        if words.flag("none") {
            self.seen.store.cluster.failover = None;
            return Ok(());
        }
        self.requests += 1;
        let due = words.keyed("in").map(words::duration).transpose()?.map(|wait| self.seen.now + wait);
        self.seen.store.cluster.failover = Some(FailoverRequest {
            leader: words.keyed("from").map(words::name),
            candidate: words.keyed("to").map(words::name),
            handed_over: words.flag("handed_over"),
            due,
            revision: Revision(60 + self.requests),
        });
        Ok(())
    }

    fn listed(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let address = words.next()?.to_owned();
        let host = if words.flag("silent") {
            None
        } else {
            let system_id = words
                .keyed("data")
                .map(|id| id.parse().map(SystemId).map_err(|_| format!("{id:?} is no number")))
                .transpose()?;
            let lease_left = words.keyed("lease").map_or(Ok(Duration::ZERO), words::duration)?;
            Some(HostFacts {
                system_id,
                timeline: None,
                promised: Epoch(0),
                primary_may_run: words.flag("primary"),
                lease_left,
            })
        };
        self.seen.store.listed.retain(|listed| listed.address != address);
        self.seen.store.listed.push(Listed { address, asked: Some(self.seen.now), host });
        Ok(())
    }

    fn peer(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let name = words.name()?;
        if words.flag("silent") {
            self.seen.peers.remove(&name);
            return Ok(());
        }
        let proof = match (words.flag("proves"), words.flag("lacks")) {
            (true, _) => Some((checkpoint(), true)),
            (_, true) => Some((checkpoint(), false)),
            _ => None,
        };
        let answer = PeerAnswer {
            asked: self.seen.now,
            system_id: Some(SystemId(7)),
            primary: words.flag("primary"),
            history: words.keyed("timeline").map(words::history).transpose()?,
            position: words.keyed("at").map_or(Ok(Lsn::INVALID), words::lsn)?,
            unfit: words.flag("unfit").then(|| "it says so".to_owned()),
            priority: words
                .keyed("priority")
                .map_or(Ok(1), |text| text.parse().map_err(|_| format!("{text:?} is no number")))?,
            checkpointed: words.flag("checkpointed"),
            promised: words.keyed("promised").map_or(Ok(Epoch(0)), words::epoch)?,
            timeline_given: words
                .keyed("given")
                .map(str::parse)
                .transpose()
                .map_err(|_| "given=NUMBER")?
                .map(TimelineId),
            prepared: words.keyed("prepared").map(words::epoch).transpose()?,
            proof,
        };
        self.seen.peers.insert(name, answer);
        Ok(())
    }

    fn finished(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let kind = self.seen.operation.take().ok_or("no operation is under way")?.kind;
        let outcome = match words.next()? {
            "done" => Outcome::Done,
            "failed" => Outcome::Failed("something".to_owned()),
            "shut_down" => Outcome::ShutDown(checkpoint()),
            other => return Err(format!("{other:?}: done, failed or shut_down")),
        };
        self.seen.finished = Some(Finished { kind, at: self.seen.now, outcome });
        Ok(())
    }
}

/// The one shutdown checkpoint of all stories.
fn checkpoint() -> ShutdownCheckpoint {
    ShutdownCheckpoint {
        system_id: SystemId(7),
        timeline: TimelineId(1),
        start: Lsn(0x3000),
        end: Lsn(0x3078),
        previous: Lsn(0x2FC0),
        crc: 0x00C0_FFEE,
    }
}

fn directory(words: &mut Words<'_>) -> Result<Directory, String> {
    Ok(match words.next()? {
        "empty" => Directory::Empty,
        "unreadable" => Directory::Unreadable { error: "input/output error".to_owned() },
        "foreign" => Directory::Foreign { found: "lost+found".to_owned() },
        "incomplete" => Directory::Incomplete {
            work: match words.next()? {
                "bootstrap" => Work::Bootstrap,
                "clone" => Work::Clone,
                "rewind" => Work::Rewind,
                other => return Err(format!("{other:?} is no work")),
            },
        },
        "database" => Directory::Database(Database {
            state: control_state(words.next()?)?,
            system_id: SystemId(
                words.keyed("system").map_or(Ok(7), |id| id.parse().map_err(|_| format!("{id:?} is no number")))?,
            ),
            history: words::history(words.keyed("timeline").unwrap_or("1"))?,
            end: words.keyed("end").map(words::lsn).transpose()?,
            rewindable: !words.flag("not_rewindable"),
        }),
        other => return Err(format!("{other:?} is no state of a directory")),
    })
}

fn control_state(word: &str) -> Result<ControlState, String> {
    Ok(match word {
        "shut_down" => ControlState::ShutDown,
        "shut_down_in_recovery" => ControlState::ShutDownInRecovery,
        "in_production" => ControlState::InProduction,
        "in_recovery" => ControlState::InRecovery,
        other => return Err(format!("{other:?} is no state of a control file")),
    })
}

fn server(words: &mut Words<'_>, now: BootTime) -> Result<Server, String> {
    let (guarded, promoting) = (!words.flag("unguarded"), words.flag("promoting"));
    let answer = match words.next()? {
        "stopped" => return Ok(Server::Stopped { since: now }),
        "dying" => return Ok(Server::Dying { since: now }),
        "starting" => Answer::Starting,
        "silent" => Answer::Silent { since: now },
        "primary" => Answer::Primary(PrimaryStatus {
            history: words::history(words.keyed("timeline").unwrap_or("1"))?,
            position: words.keyed("at").map_or(Ok(Lsn(0x2000)), words::lsn)?,
            checkpointed: true,
        }),
        "standby" => {
            let received = words.keyed("at").map_or(Ok(Lsn(0x2000)), words::lsn)?;
            Answer::Standby(StandbyStatus {
                history: words::history(words.keyed("timeline").unwrap_or("1"))?,
                received,
                reported_received: received,
                replayed: received,
                replay_paused: false,
                upstream: words.keyed("of").map(words::name),
                streaming: words.flag("streaming"),
            })
        }
        other => return Err(format!("{other:?} is no state of a server")),
    };
    Ok(Server::Running { guarded, since: now, promoting, answer })
}

fn initialize(words: &mut Words<'_>) -> Result<Initialize, String> {
    Ok(match words.next()? {
        "absent" => Initialize::Absent,
        "under_way" => Initialize::UnderWay { mine: words.flag("mine") },
        "done" => Initialize::Done(SystemId(u64::from(words.number()?))),
        other => return Err(format!("{other:?}: absent, under_way or done ID")),
    })
}

fn describe(action: &Action) -> String {
    match action {
        Action::ClaimBootstrap => "claim the bootstrap".to_owned(),
        Action::WithdrawClaim => "withdraw the claim".to_owned(),
        Action::RecordInitialize { system_id, epoch } => format!("record the identity {system_id} in {epoch}"),
        Action::AcquireLease { reserve, above, identity, .. } => {
            let above = if above.0 == 0 { String::new() } else { format!(", above {above}") };
            let identity =
                identity.map(|system_id| format!(", and record the identity {system_id}")).unwrap_or_default();
            format!("acquire the lease and reserve timeline {reserve}{above}{identity}")
        }
        Action::ReleaseLease { created, successor } => {
            format!(
                "release the lease created at {created}{}",
                successor.as_ref().map_or(String::new(), |member| format!(", to {member}"))
            )
        }
        Action::PublishPosition { position } => format!("publish the position {position}"),
        Action::PublishHistory { history } => format!("publish the history of timeline {}", history.timeline()),
        Action::ClearFailover { why, .. } => format!("clear the request: {why}"),
        Action::AskListed => "ask the other voters about their hosts".to_owned(),
        Action::AskPeers { members } => format!("ask {}", names(members)),
        Action::PrepareCandidate { candidate, epoch } => format!("ask {candidate} to prepare for the end of {epoch}"),
        Action::Checkpoint => "checkpoint".to_owned(),
        Action::AskProof { candidate, checkpoint } => format!("ask {candidate} for the {checkpoint}"),
        Action::SetSlots { members } => format!("slots for {}", names(members)),
        Action::ArmGuard { epoch, .. } => format!("arm the guard for {epoch}"),
        Action::DisarmGuard { why } => format!("disarm the guard ({why:?})"),
        Action::Begin(kind) => format!("begin: {kind}"),
        Action::CancelOperation => "cancel the operation".to_owned(),
        Action::Exit { code, why } => format!("exit {code}: {why}"),
    }
}

fn names(members: &[MemberName]) -> String {
    if members.is_empty() {
        return "nobody".to_owned();
    }
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(" ")
}
