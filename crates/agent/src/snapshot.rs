//! Making the snapshot that REST shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::observation::{Directory, Local, Orders, Server, StoreView};
use pgbaton_core::{Decision, Observation};
use pgbaton_types::BootTime;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::observe::Look;
use crate::record;
use crate::shared::{GuardView, Snapshot};

/// What a snapshot is made of.
pub(crate) struct Parts<'a> {
    pub(crate) context: &'a Context,
    pub(crate) look: &'a Look,
    pub(crate) seen: &'a Arc<Observation>,
    pub(crate) decision: &'a Decision,
    pub(crate) ready: bool,
    pub(crate) pending_restart: &'a [String],
    pub(crate) scheduled_restart: Map<String, Value>,
    pub(crate) alarms: &'a [String],
}

pub(crate) fn make(parts: &Parts<'_>) -> Snapshot {
    let config = parts.context.config();
    let view = parts.context.view.get();
    Snapshot {
        observation: Arc::clone(parts.seen),
        report: parts.decision.report.clone(),
        unfit: parts.decision.unfit.clone(),
        last_handover: parts.decision.memory.last_handover.clone(),
        settings: config.settings.clone(),
        effective: Arc::clone(&config.effective),
        local: Arc::clone(&config.local),
        keys: view.keys,
        revision: view.revision,
        sample: parts.look.sample.clone(),
        pending_restart: parts.pending_restart.to_vec(),
        scheduled_restart: parts.scheduled_restart.clone(),
        state: record::state(parts.seen),
        role: record::role(parts.seen, parts.ready),
        guard: guard(parts.look),
        progress: parts.context.progress(),
        store_last_seen: view.answered_at,
        next_run: parts.decision.wake_at,
        guarantee: "lease",
        address: parts.context.address.status(),
        alarms: alarms(parts),
    }
}

/// The snapshot before the first decision: nothing is known.
pub(crate) fn before_the_first(context: &Context) -> Snapshot {
    let config = context.config();
    let view = context.view.get();
    let now = crate::clock::now();
    let observation = Observation {
        now,
        me: context.me.clone(),
        local: Local {
            directory: Directory::Unreadable { error: "it was not looked at yet".to_owned() },
            found: None,
            server: Server::Dying { since: now },
        },
        store: StoreView::default(),
        lease: None,
        guard: pgbaton_core::observation::Guard { alive: false, armed: false },
        peers: BTreeMap::new(),
        operation: None,
        finished: None,
        checkpoint: None,
        orders: Orders::default(),
        memory: context.kept().memory(),
    };
    Snapshot {
        state: record::state(&observation),
        role: record::role(&observation, false),
        observation: Arc::new(observation),
        report: Vec::new(),
        unfit: Some("the agent has just started".to_owned()),
        last_handover: None,
        settings: config.settings.clone(),
        effective: Arc::clone(&config.effective),
        local: Arc::clone(&config.local),
        keys: view.keys,
        revision: view.revision,
        sample: None,
        pending_restart: Vec::new(),
        scheduled_restart: Map::new(),
        guard: GuardView::default(),
        progress: None,
        store_last_seen: 0,
        next_run: now,
        guarantee: "lease",
        address: None,
        alarms: Vec::new(),
    }
}

fn guard(look: &Look) -> GuardView {
    let Some(status) = look.status else { return GuardView::default() };
    GuardView {
        alive: true,
        armed: status.deadline.is_some(),
        paused: status.paused,
        deadline: status.deadline.map(BootTime),
        kill_time: Duration::from_millis(u64::from(status.rights.enforcement_ms())),
        missing_rights: status.rights.missing().collect(),
        postmaster: status.postmaster.map(|postmaster| postmaster.pid),
    }
}

fn alarms(parts: &Parts<'_>) -> Vec<String> {
    let mut alarms = parts.alarms.to_vec();
    if let Some(pid) = parts.look.stranger {
        alarms.push(format!("postmaster {pid} was not started by the guard: no deadline is enforced on it"));
    }
    alarms.extend(parts.context.address.problems());
    if parts.look.status.is_none() {
        alarms.push("the guard does not answer".to_owned());
    }
    alarms
}
