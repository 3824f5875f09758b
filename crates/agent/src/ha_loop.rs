//! The loop: observe, decide, execute, again at each event. The only place that changes what is remembered.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::layout::PausingRecord;
use pgbaton_core::observation::{Directory, Finished, Operation, Orders, Outcome, PeerAnswer, Server, StoreView};
use pgbaton_core::{Action, Address, Decision, Finding, Memory, Observation, OperationKind, StopMode, Verdict};
use pgbaton_guard::{EXIT_CONFIGURATION, EXIT_LEAVES};
use pgbaton_postgres::NewerGoodCopy;
use pgbaton_types::{BootTime, Epoch, MemberName, SystemId, chain};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::clock;
use crate::connect::Connected;
use crate::context::Context;
use crate::event::{Event, Looked, OrderReply};
use crate::execute;
use crate::host_facts::{self, OwnFacts, Parts};
use crate::keys;
use crate::lease_actions::ACTION_TIME;
use crate::member_slots::MemberSlots;
use crate::observe::{Look, Observer};
use crate::operation::Running;
use crate::peers::Peers;
use crate::publish::{HolderPublication, Publication};
use crate::record;
use crate::scheduled::Scheduled;
use crate::settings::SettingsKeeper;
use crate::shared::Snapshot;
use crate::snapshot;
use crate::view;

/// Decisions in a row without an event between them. More means that an action does not have the effect that it should: then the next one
/// waits for [`CALM`].
const ROUNDS_MAX: u32 = 8;
/// The pause after that many.
const CALM: Duration = Duration::from_millis(50);

/// The exit code after which the guard starts the agent again: any one without a meaning of its own.
const EXIT_AGAIN: u8 = 3;

/// The core and the guard mean the same by it.
const _: () = assert!(pgbaton_core::decision::EXIT_LEAVES == EXIT_LEAVES);

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code.
    pub(crate) code: u8,
    /// For the log.
    pub(crate) why: String,
}

/// The loop with all that it remembers.
pub(crate) struct HaLoop {
    pub(crate) context: Arc<Context>,
    connected: Connected,
    own_facts: OwnFacts,
    observer: Observer,
    peers: Peers,
    events: mpsc::Receiver<Event>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    wanted: watch::Sender<Publication>,
    settings: SettingsKeeper,
    pub(crate) memory: Memory,
    answers: BTreeMap<MemberName, PeerAnswer>,
    running: Option<Running>,
    finished: Option<Finished>,
    checkpoint: Option<BootTime>,
    pub(crate) orders: Orders,
    pub(crate) scheduled: Option<Scheduled>,
    pub(crate) restart_replies: Vec<oneshot::Sender<OrderReply>>,
    asked: Vec<oneshot::Sender<Looked>>,
    publication: Publication,
    slots_ready: Option<Epoch>,
    member_slots: MemberSlots,
    leader_was_up: bool,
    report: Vec<Finding>,
    alarms: Vec<String>,
    next_operation: u64,
    ready: bool,
    name_taken: Option<String>,
    put_away: bool,
}

/// What the loop is made of.
pub(crate) struct Wiring {
    pub(crate) context: Arc<Context>,
    pub(crate) connected: Connected,
    pub(crate) own_facts: OwnFacts,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) wanted: watch::Sender<Publication>,
    pub(crate) settings: SettingsKeeper,
}

impl HaLoop {
    pub(crate) fn new(wiring: Wiring) -> Self {
        let Wiring { context, connected, own_facts, events, snapshots, wanted, settings } = wiring;
        let memory = context.kept().memory();
        Self {
            observer: Observer::new(context.spec()),
            peers: Peers::new(Arc::clone(&context)),
            context,
            connected,
            own_facts,
            events,
            snapshots,
            wanted,
            settings,
            memory,
            answers: BTreeMap::new(),
            running: None,
            finished: None,
            checkpoint: None,
            orders: Orders::default(),
            scheduled: None,
            restart_replies: Vec::new(),
            asked: Vec::new(),
            publication: Publication::default(),
            slots_ready: None,
            member_slots: MemberSlots::default(),
            leader_was_up: false,
            report: Vec::new(),
            alarms: Vec::new(),
            next_operation: 1,
            ready: false,
            name_taken: None,
            put_away: false,
        }
    }

    /// Runs until the agent is to end.
    pub(crate) async fn run(mut self) -> Ended {
        let mut rounds = 0;
        loop {
            if let Some(address) = &self.name_taken {
                let why = format!(
                    "another agent named {} answers at {address}: stop it, or give this member another name",
                    self.context.me
                );
                return Ended { code: EXIT_CONFIGURATION, why };
            }
            self.settings.follow(&self.context, &mut self.observer, self.running.is_none()).await;
            if self.settings.leaves_store() {
                let why = "the configuration names another store: starts anew with it, and its server stays";
                return Ended { code: EXIT_AGAIN, why: why.to_owned() };
            }
            let look = self.observer.look(&self.context).await;
            let seen = Arc::new(self.observe(&look));
            let decision = self.decide(&seen);
            self.show(&look, &seen, &decision);
            let acted = match self.execute(&look, &seen, &decision).await {
                Ok(acted) => acted,
                Err(ended) => return ended,
            };
            self.tell_ready(&seen);
            self.publish(&look, &seen);
            self.look_after(&look, &seen).await;
            let restart = self.scheduled_restart(&look, &seen);
            rounds = if acted { rounds + 1 } else { 0 };
            if acted && rounds < ROUNDS_MAX {
                self.drain();
                continue;
            }
            let now = clock::now();
            let wait = decision.wake_at.since(now).min(restart.unwrap_or(Duration::MAX));
            let wait = if rounds >= ROUNDS_MAX { CALM } else { wait.max(Duration::from_millis(1)) };
            rounds = 0;
            if let Ok(Some(event)) = timeout(wait, self.events.recv()).await {
                self.handle(event);
            }
            self.drain();
        }
    }

    /// The start went well once this member has its session in the store or a server runs: from now on the guard starts another agent
    /// when this one ends.
    fn tell_ready(&mut self, seen: &Observation) {
        let well = self.context.session.lease().is_some() || !matches!(seen.local.server, Server::Stopped { .. });
        if self.ready || !well {
            return;
        }
        match self.context.guard.ready() {
            Ok(()) => self.ready = true,
            Err(error) => tracing::warn!(error = %chain(&error), "the guard was not told that the agent is ready"),
        }
    }

    fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
    }

    fn observe(&mut self, look: &Look) -> Observation {
        let now = clock::now();
        let view = self.context.view.get();
        let unix_ms = jiff::Timestamp::now().as_millisecond();
        let cluster = keys::cluster(&view.keys, self.context.own(), now, unix_ms);
        self.settle_orders(look);
        Observation {
            now,
            me: self.context.me.clone(),
            local: look.local.clone(),
            store: StoreView { as_of: view.as_of, revision: view.revision, cluster, listed: self.connected.listed() },
            lease: self.context.lease.any().map(|held| held.lease),
            guard: look.guard,
            peers: self.answers.clone(),
            operation: self
                .running
                .as_ref()
                .map(|running| Operation { kind: running.kind.clone(), since: running.since }),
            finished: self.finished.clone(),
            checkpoint: self.checkpoint,
            orders: self.orders.clone(),
            memory: self.memory.clone(),
        }
    }

    fn decide(&mut self, seen: &Observation) -> Decision {
        let settings = self.context.config().settings.clone();
        let mut decision = pgbaton_core::decide(&settings, seen);
        let broken = pgbaton_core::safety::check(&settings, seen, &decision);
        self.alarms.clear();
        if !broken.is_empty() {
            for rule in &broken {
                tracing::error!(%rule, actions = ?decision.actions, "a decision broke a safety rule and is not carried out");
                self.alarms.push(format!("a decision was not carried out: {rule}"));
            }
            decision.address = Address::Gone;
            decision.actions.retain(|action| {
                matches!(action, Action::CancelOperation | Action::Begin(OperationKind::Stop { mode: StopMode::Kill }))
            });
        }
        self.memory = decision.memory.clone();
        if let Err(error) = self.context.keep_memory(&self.memory) {
            tracing::error!(error = %chain(&error), "the highest epoch and timeline seen were not kept");
        }
        self.context.lease.pulse(clock::now(), decision.renew);
        if settled(&decision.report) != settled(&self.report)
            && let Some(finding) = decision.report.last()
        {
            tracing::info!("{finding}");
        }
        self.report.clone_from(&decision.report);
        decision
    }

    fn show(&mut self, look: &Look, seen: &Arc<Observation>, decision: &Decision) {
        let facts = host_facts::of(&Parts {
            seen,
            promised: self.memory.promised,
            enforced: look.status.and_then(|status| status.deadline).map(BootTime),
            attempted: self.context.lease.attempted_until(),
            observer: &self.observer,
        });
        self.own_facts.set(&facts);
        self.connected.holds_lease(seen.lease.is_some());
        let parts = snapshot::Parts {
            context: &self.context,
            look,
            seen,
            decision,
            ready: self.slots_ready.is_some(),
            pending_restart: self.observer.pending_restart(),
            scheduled_restart: self.scheduled.as_ref().map(Scheduled::document).unwrap_or_default(),
            alarms: &self.alarms,
        };
        self.snapshots.send_replace(Arc::new(snapshot::make(&parts)));
        for reply in self.asked.drain(..) {
            // Whoever asked has given up waiting.
            let looked = Looked { observation: Arc::clone(seen), unfit: decision.unfit.clone(), host: facts.clone() };
            let _ = reply.send(looked);
        }
    }

    /// Carries the actions out. Says whether one of them changed something, so that it is decided anew at once.
    async fn execute(&mut self, look: &Look, seen: &Observation, decision: &Decision) -> Result<bool, Ended> {
        let mut acted = false;
        self.context.address.obey(&self.context, decision.address).await;
        for action in &decision.actions {
            if let Action::Exit { code, why } = action {
                if *code == 0 {
                    crate::operations::archive_at_end(&self.context).await;
                }
                // Before it was ever ready, starting it again would only say the same again.
                let code = if !matches!(*code, 0 | EXIT_LEAVES) && !self.ready { EXIT_CONFIGURATION } else { *code };
                return Err(Ended { code, why: why.clone() });
            }
            if let Err(error) = execute::check(&self.context, seen, action) {
                tracing::warn!(?action, error = %chain(&error), "an action was not carried out");
                continue;
            }
            match self.act(look, seen, action).await {
                Ok(changed) => acted |= changed,
                Err(error @ execute::ActionError::NoSession) => {
                    tracing::debug!(?action, error = %error, "an action waits");
                }
                Err(error) => tracing::warn!(?action, error = %chain(&error), "an action failed"),
            }
            if writes_keys(action) {
                // The next decision shall see what came of it, whoever was faster.
                view::read_once(&self.context, ACTION_TIME).await;
            }
        }
        Ok(acted)
    }

    async fn act(&mut self, look: &Look, seen: &Observation, action: &Action) -> Result<bool, execute::ActionError> {
        match action {
            Action::ClaimBootstrap => execute::claim_bootstrap(&self.context).await?,
            Action::WithdrawClaim => execute::withdraw_claim(&self.context).await?,
            Action::RecordInitialize { system_id, .. } => execute::record_initialize(&self.context, *system_id).await?,
            Action::AcquireLease { .. } => {
                execute::acquire(&self.context, action).await?;
                return Ok(true);
            }
            Action::ReleaseLease { created, successor } => {
                crate::lease_actions::release(&self.context, *created, successor.as_ref()).await?;
            }
            Action::PublishPosition { position } => self.holder(seen).position = Some(*position),
            Action::PublishHistory { history } => self.holder(seen).history = Some(history.clone()),
            Action::ClearFailover { revision, why } => {
                tracing::info!(why, "the request for a switchover is closed");
                execute::clear_failover(&self.context, *revision).await?;
            }
            Action::AskPeers { members } => members.iter().for_each(|member| self.peers.ask_position(member.clone())),
            Action::AskListed => self.connected.want_listed(),
            Action::PrepareCandidate { candidate, epoch } => self.peers.ask_prepare(candidate.clone(), *epoch),
            Action::Checkpoint => execute::checkpoint(&self.context, seen.now),
            Action::AskProof { candidate, checkpoint } => {
                let epoch = seen.lease.map_or(seen.memory.promised, |lease| lease.epoch);
                self.peers.ask_proof(candidate.clone(), *checkpoint, epoch);
            }
            Action::SetSlots { members } => {
                // Clients need no slots: who follows the primary hears of it first.
                self.publish(look, seen);
                self.set_slots(look, seen, members).await;
            }
            Action::DisarmGuard { why } => {
                execute::disarm(&self.context, *why)?;
                return Ok(true);
            }
            Action::ArmGuard { epoch, deadline } => {
                self.context.guard.extend(epoch.0, deadline.0)?;
                return Ok(true);
            }
            Action::Begin(kind) => {
                self.begin(kind.clone());
                return Ok(true);
            }
            Action::CancelOperation => {
                self.cancel().await;
                return Ok(true);
            }
            Action::Exit { .. } => {}
        }
        Ok(false)
    }

    fn holder(&mut self, seen: &Observation) -> &mut HolderPublication {
        let created = seen.lease.map(|lease| lease.created).unwrap_or_default();
        if self.publication.holder.as_ref().is_none_or(|holder| holder.created != created) {
            self.publication.holder = None;
        }
        // Slots as the store names them: what is published before it is looked at them must not forget any.
        let slots = || keys::retained_slots(&self.context.view.keys());
        self.publication.holder.get_or_insert_with(|| HolderPublication {
            created,
            position: None,
            history: None,
            slots: slots(),
        })
    }

    /// Publishes what is known, before slots are made and after all actions: members that wait for a leader come as soon as it has their slots.
    fn publish(&mut self, look: &Look, seen: &Observation) {
        let ready = seen.lease.is_some_and(|lease| self.slots_ready == Some(lease.epoch));
        let config = self.context.config();
        self.publication.record =
            record::record(&config, seen, ready, look.sample.as_deref(), self.observer.pending_restart());
        self.publication.record.scheduled_restart =
            self.scheduled.as_ref().map(Scheduled::document).unwrap_or_default();
        self.publication.record.pausing =
            self.memory.pausing.map(|pausing| PausingRecord { epoch: pausing.epoch, id: pausing.since.0 });
        if seen.lease.is_none() {
            self.publication.holder = None;
        }
        if *self.wanted.borrow() != self.publication {
            self.wanted.send_replace(self.publication.clone());
        }
    }

    async fn set_slots(&mut self, look: &Look, seen: &Observation, members: &[MemberName]) {
        let Some(lease) = seen.lease else { return };
        let use_slots = self.context.config().effective.use_slots;
        let there = |name: &MemberName| {
            look.sample.as_ref().is_some_and(|sample| sample.slots.iter().any(|slot| slot.name == name.slot_name()))
        };
        if use_slots {
            self.drop_slots_of_the_gone(look, seen, lease.epoch).await;
        }
        if !use_slots || members.iter().all(there) {
            self.slots_ready = Some(lease.epoch);
            return;
        }
        match self.observer.ensure_slots(members).await {
            Ok(made) => {
                tracing::info!(slots = made.join(" "), "made replication slots");
                self.slots_ready = Some(lease.epoch);
            }
            Err(error) => tracing::warn!(error = %chain(&error), "replication slots could not be made"),
        }
    }

    /// Slots of members that are gone for good are dropped; in maintenance mode nothing is.
    async fn drop_slots_of_the_gone(&mut self, look: &Look, seen: &Observation, epoch: Epoch) {
        let config = self.context.config();
        let (ttl, now) = (config.effective.cluster.member_slots_ttl, seen.now);
        let members = seen.store.cluster.members.keys().chain([&seen.me]).map(MemberName::slot_name);
        let context = &self.context;
        self.member_slots.refresh(epoch, now, members, || keys::retained_slots(&context.view.keys()));
        self.holder(seen).slots = self.member_slots.kept(now, ttl);
        let Some(sample) = look.sample.as_ref().filter(|_| !config.settings.paused) else { return };
        for name in self.member_slots.over(now, ttl) {
            let slot = sample.slots.iter().find(|slot| slot.name == name && slot.physical);
            if slot.is_none_or(|slot| !slot.active)
                && (slot.is_none() || self.observer.drop_slot(&name, "its member is gone").await)
            {
                self.member_slots.forget(&name);
            }
        }
    }

    /// Small duties that are no decisions: a standby has no slots, is woken when its leader is ready, and forgets a handover that came to
    /// nothing.
    async fn look_after(&mut self, look: &Look, seen: &Observation) {
        let leader = seen.store.cluster.leader.as_ref().filter(|leader| leader.member != seen.me);
        let up = leader
            .is_some_and(|leader| seen.store.cluster.members.get(&leader.member).is_some_and(|facts| facts.primary));
        let came_up = up && !std::mem::replace(&mut self.leader_was_up, up);
        if !seen.local.server.is_guarded_standby() {
            return;
        }
        if came_up && let Err(error) = self.context.signal(pgbaton_postgres::ServerSignal::Reload) {
            tracing::debug!(error = %chain(&error), "the standby was not woken");
        }
        if self.running.is_none() {
            let retained = keys::retained_slots(&self.context.view.keys());
            self.observer.drop_member_slots(look, seen, &retained).await;
            self.settings.end_preparation(&self.context, seen);
            self.settings.follow_address(&self.context);
        }
        if self.put_away
            && seen.local.server.standby().is_some_and(|standby| standby.streaming)
            && let Directory::Database(database) = &seen.local.directory
        {
            self.put_away = false;
            prune(self.context.data_dir(), database.system_id, &self.context.services);
        }
    }

    pub(crate) fn begin(&mut self, kind: OperationKind) {
        let id = self.next_operation;
        self.next_operation += 1;
        self.finished = None;
        self.running = Some(Running::begin(Arc::clone(&self.context), id, kind));
    }

    async fn cancel(&mut self) {
        let Some(running) = self.running.take() else { return };
        let kind = running.kind.clone();
        running.cancel().await;
        self.end(kind, Outcome::Failed("given up".to_owned()));
    }

    fn end(&mut self, kind: OperationKind, outcome: Outcome) {
        match &outcome {
            Outcome::Failed(why) => tracing::warn!(operation = %kind, why, "failed"),
            Outcome::Done | Outcome::ShutDown(_) => tracing::info!(operation = %kind, "done"),
        }
        self.order_progress(&kind, &outcome);
        self.put_away |= matches!((&kind, &outcome), (OperationKind::Quarantine { .. }, Outcome::Done));
        self.finished = Some(Finished { kind, at: clock::now(), outcome });
    }

    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::StoreChanged | Event::LeaseChanged | Event::ServerChanged => {}
            Event::GuardLost => tracing::error!("the guard is gone"),
            Event::OperationFinished { id, outcome } => {
                if let Some(running) = self.running.take_if(|running| running.id == id) {
                    self.end(running.kind, outcome);
                }
            }
            Event::PeerAnswered { member, update } => self.take_answer(member, *update),
            Event::Order { order, reply } => self.take_order(order, reply),
            Event::Checkpointed { asked } => self.checkpoint = self.checkpoint.max(Some(asked)),
            Event::AskedPosition { reply } => self.asked.push(reply),
            Event::NameTaken { address } => self.name_taken = Some(address),
            Event::Terminate => self.orders.terminate = true,
            Event::Reload => self.settings.reload(),
        }
    }

    fn take_answer(&mut self, member: MemberName, update: crate::event::PeerUpdate) {
        match update {
            crate::event::PeerUpdate::Position(mut answer) => {
                answer.proof = self.answers.get(&member).and_then(|old| old.proof);
                self.answers.insert(member, answer);
            }
            crate::event::PeerUpdate::Proof { checkpoint, holds } => {
                let answer = self.answers.entry(member).or_insert_with(nothing_known);
                answer.proof = Some((checkpoint, holds));
            }
        }
    }

    /// What REST shows now.
    pub(crate) fn shown(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// An operation is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Settings that wait for a restart.
    pub(crate) fn pending_restart(&self) -> &[String] {
        self.observer.pending_restart()
    }

    pub(crate) fn settings_mut(&mut self) -> &mut SettingsKeeper {
        &mut self.settings
    }
}

/// Keeps the newest of the directories that were put away: a newer good copy runs.
fn prune(data_dir: PathBuf, system_id: SystemId, services: &tokio::runtime::Handle) {
    services.spawn_blocking(move || {
        match pgbaton_postgres::prune_quarantine(&data_dir, NonZeroUsize::MIN, NewerGoodCopy { system_id }) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "removed directories that were put away earlier"),
            Err(error) => tracing::warn!(error = %chain(&error), "what was put away earlier was not removed"),
        }
    });
}

fn writes_keys(action: &Action) -> bool {
    matches!(
        action,
        Action::ClaimBootstrap
            | Action::WithdrawClaim
            | Action::RecordInitialize { .. }
            | Action::AcquireLease { .. }
            | Action::ReleaseLease { .. }
            | Action::ClearFailover { .. }
    )
}

fn nothing_known() -> PeerAnswer {
    PeerAnswer {
        asked: BootTime::default(),
        promised: Epoch::default(),
        timeline_given: None,
        system_id: None,
        primary: false,
        history: None,
        position: pgbaton_types::Lsn::INVALID,
        unfit: Some("it was not asked".to_owned()),
        priority: 0,
        checkpointed: false,
        prepared: None,
        proof: None,
    }
}

/// The step that settled a decision and how; its numbers change all the time and are left out.
fn settled(report: &[Finding]) -> Option<(pgbaton_core::Step, u8, String)> {
    let finding = report.last()?;
    let (kind, reason) = match &finding.verdict {
        Verdict::Taken(reason) => (0, reason),
        Verdict::NotApplicable(reason) => (1, reason),
        Verdict::Blocked(reason) => (2, reason),
    };
    let text = reason.chars().filter(|character| !character.is_ascii_digit()).collect();
    Some((finding.step, kind, text))
}
