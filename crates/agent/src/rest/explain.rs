use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_api::layout::{MemberRecord, POOLERS, PoolerRecord};
use pgbaton_api::{Eligibility, Explain, ExplainedGuard, ExplainedLease, ExplainedStep, Guarantee, StepOutcome};
use pgbaton_core::{Finding, Observation, Verdict};
use pgbaton_types::{BootTime, Epoch, Lsn, MemberName};
use serde::Serialize;

use super::answer::Answer;
use super::cluster::View;
use crate::clock;
use crate::shared::{Shared, Snapshot};

/// How long the store's node in this process may take to say how it is: it asks nobody.
const STORE_TIME: Duration = Duration::from_millis(100);

/// The document with what the last handover came to.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    explain: Explain,
    /// Why a handover was called off or refused last; absent after one that went through.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_handover: Option<String>,
    /// The virtual address on this host; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<ShownAddress>,
    /// The poolers that live and follow this cluster, with what they have said last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    poolers: BTreeMap<String, PoolerRecord>,
    /// How this member's node of the store is; absent when it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreNode>,
}

/// The virtual address on this host.
#[derive(Serialize)]
struct ShownAddress {
    /// The reign in which this host is to have it; absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_epoch: Option<u64>,
    /// The addresses that are on the interface, with their prefix.
    present: Vec<String>,
}

/// This member's node of the store.
#[derive(Serialize)]
struct StoreNode {
    /// Whether it leads the store, which is another thing than holding the lease.
    leads: bool,
    /// The term that it is in.
    term: u64,
    /// How many nodes vote.
    voters: usize,
    /// What stopped it for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

async fn store_node(shared: &Shared) -> Option<StoreNode> {
    let health = match shared.store.health(STORE_TIME).await {
        Ok(health) => health,
        Err(error) => {
            tracing::debug!(%error, "the store does not say how it is");
            return None;
        }
    };
    let (leads, term, voters) = (health.is_leader, health.term, health.voters.len());
    Some(StoreNode { leads, term, voters, stopped: health.fatal })
}

/// `GET /explain`: why this member does what it does, and who would lead if the leader were gone.
pub(super) async fn explain(shared: &Shared) -> Answer {
    let store = store_node(shared).await;
    let newest = shared.now();
    let now = newest.as_ref();
    let time = clock::now();
    let leader = leader(now, time);
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let explain = Explain {
        member: now.observation.me.to_string(),
        role: now.role.to_string(),
        epoch: leader.as_ref().map(|(_, epoch)| epoch.0),
        paused: now.settings.paused,
        lease: ExplainedLease {
            holder: leader.as_ref().map(|(member, _)| member.to_string()),
            remaining_ms: now.observation.lease.map(|lease| millis(lease.deadline.since(time))),
            guard: ExplainedGuard {
                alive: now.guard.alive,
                armed: now.guard.armed,
                kill_ms: millis(now.guard.kill_time),
            },
        },
        guarantee: guarantee(now.guarantee),
        report: now.report.iter().map(step).collect(),
        would_lead: would_lead(now),
        caveats: caveats(now),
    };
    let address = now
        .address
        .as_ref()
        .map(|status| ShownAddress { held_epoch: status.held.map(|epoch| epoch.0), present: status.present.clone() });
    let poolers = now.keys.iter().filter_map(|(key, pair)| Some((key.strip_prefix(POOLERS)?.to_owned(), pair)));
    let poolers = poolers.map(|(name, pair)| (name, serde_json::from_slice(&pair.value).unwrap_or_default())).collect();
    Answer::json(200, &Shown { explain, last_handover: now.last_handover.clone(), address, poolers, store })
}

/// Who holds the lease, as far as it is known here, and the epoch of that reign.
fn leader(now: &Snapshot, time: BootTime) -> Option<(&MemberName, Epoch)> {
    let Observation { store, lease, me, .. } = &*now.observation;
    if store.as_of.is_some() {
        return store.cluster.leader.as_ref().map(|leader| (&leader.member, leader.epoch));
    }
    // An agent that was started again goes on with its lease before it has read the store.
    lease.filter(|_| now.holds_lease(time)).map(|lease| (me, lease.epoch))
}

fn guarantee(text: &str) -> Guarantee {
    match text {
        "quorum" => Guarantee::Quorum,
        "lease+stonith" => Guarantee::LeaseAndStonith,
        _ => Guarantee::Lease,
    }
}

fn step(finding: &Finding) -> ExplainedStep {
    let (outcome, reason) = match &finding.verdict {
        Verdict::Taken(reason) => (StepOutcome::Taken, reason),
        Verdict::NotApplicable(reason) => (StepOutcome::NotApplicable, reason),
        Verdict::Blocked(reason) => (StepOutcome::Blocked, reason),
    };
    ExplainedStep { step: finding.step.name().to_owned(), outcome, reason: reason.clone() }
}

/// All members but the holder: those that may lead first, then by what would be lost.
fn would_lead(now: &Snapshot) -> Vec<Eligibility> {
    let view = View::known(now);
    let position = now.observation.store.cluster.position;
    let mut list: Vec<Eligibility> = view
        .members
        .iter()
        .filter(|(name, _)| view.leader.as_ref() != Some(*name))
        .map(|(name, record)| {
            let own = name.as_str() == now.observation.me.as_str();
            let reasons = if own { now.unfit.iter().cloned().collect() } else { obstacles(record, position, now) };
            let loss_bytes = record.xlog_location.map(|at| position.bytes_ahead_of(at));
            Eligibility { member: name.clone(), eligible: reasons.is_empty(), reasons, loss_bytes }
        })
        .collect();
    list.sort_by_key(|entry| (!entry.eligible, entry.loss_bytes.unwrap_or(u64::MAX), entry.member.clone()));
    list
}

/// What is known to keep another member from leading, by what it published. It decides by what it knows itself.
fn obstacles(record: &MemberRecord, position: Lsn, now: &Snapshot) -> Vec<String> {
    let mut reasons = Vec::new();
    if record.tags.get("nofailover").is_some_and(|tag| *tag == serde_json::Value::Bool(true)) {
        reasons.push("it has the tag nofailover".to_owned());
    }
    if record.state != "running" {
        reasons.push(format!("its server is not running but \"{}\"", record.state));
    }
    match record.xlog_location {
        None => reasons.push("its position is not known".to_owned()),
        Some(at) => {
            let (lag, limit) = (position.bytes_ahead_of(at), now.settings.maximum_lag_on_failover);
            if lag > limit {
                reasons.push(format!("it lags by {lag} bytes, more than maximum_lag_on_failover ({limit})"));
            }
        }
    }
    reasons
}

/// What weakens the guarantee here.
fn caveats(now: &Snapshot) -> Vec<String> {
    let mut caveats = now.alarms.clone();
    if now.guard.paused {
        caveats.push("the guard is disarmed because the cluster is paused: no deadline is enforced".to_owned());
    }
    if !now.guard.alive {
        caveats.push("the guard does not answer".to_owned());
    }
    caveats.extend(now.guard.missing_rights.iter().map(|right| format!("the guard lacks a right: {right}")));
    caveats
}
