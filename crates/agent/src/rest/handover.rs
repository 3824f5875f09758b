use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use pgbaton_api::layout::{FailoverRecord, MemberRecord};
use pgbaton_api::{Handover, Reply, SwitchoverRequest, TargetView, to_compact};
use pgbaton_net::HttpClient;
use pgbaton_store::{Compare, Op, Txn};
use pgbaton_types::Revision;
use serde_json::Value;
use tokio::task::JoinSet;

use super::answer::Answer;
use super::body;
use super::cluster::View;
use super::config::{STORE_WITHIN, unavailable};
use crate::shared::{Shared, Snapshot};

/// How long a candidate may take to say that it is there.
const CANDIDATE_WITHIN: Duration = Duration::from_secs(2);

/// The shortest time that a handover is waited for, before it is doubled; as in Patroni.
const WAIT_MIN: Duration = Duration::from_secs(10);

/// The key that asks for a handover, without the prefix.
const KEY: &str = "failover";

/// How a handover that was waited for ended.
enum End {
    /// This member leads and accepts writes.
    Leads(String),
    /// The request is gone and the old leader is still there.
    Failed,
}

/// `POST /switchover` and `POST /failover`.
pub(super) async fn begin(shared: &Shared, path: Handover, bytes: &[u8]) -> Answer {
    match ask(shared, path, bytes).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn ask(shared: &Shared, path: Handover, bytes: &[u8]) -> Result<Answer, Answer> {
    let body = body::object(bytes)?;
    let paused = shared.now().settings.paused;
    let request = SwitchoverRequest::parse(path, &body, Timestamp::now(), paused)?;
    let fresh = shared.store.snapshot(&shared.prefix, STORE_WITHIN).await.map_err(|error| unavailable(&error))?;
    let pairs = fresh.items.iter().filter_map(|pair| Some((pair.key.strip_prefix(&*shared.prefix)?, pair)));
    let view = View::of(pairs);
    let members: BTreeSet<String> = view.members.keys().cloned().collect();
    request.check(&TargetView { leader: view.leader.as_deref(), members: &members })?;
    if request.scheduled_at.is_none() && !any_good(&view, request.candidate.as_deref()).await {
        return Err(Reply::NoGoodCandidates { handover: request.handover }.into());
    }
    let asked = write(shared, &request).await?;
    if request.scheduled_at.is_some() {
        return Ok(Reply::SwitchoverScheduled.into());
    }
    Ok(wait(shared, &request, view.leader.as_deref(), asked).await)
}

/// Whether one of the members that are considered is there and may lead.
async fn any_good(view: &View, candidate: Option<&str>) -> bool {
    let mut questions = JoinSet::new();
    for (name, record) in &view.members {
        let considered = candidate.map_or(view.leader.as_ref() != Some(name), |candidate| candidate == name);
        if considered && !nofailover(record) {
            let url = record.api_url.clone();
            questions.spawn(async move {
                let answer = HttpClient::new().get(&url, CANDIDATE_WITHIN).await.ok()?;
                let status: Value = serde_json::from_slice(&answer.body).ok()?;
                let tags = status.get("tags").cloned().unwrap_or_default();
                let refused = tags.get("nofailover") == Some(&Value::Bool(true));
                let unarmed = status.get("watchdog_failed") == Some(&Value::Bool(true));
                (!refused && !unarmed).then_some(())
            });
        }
    }
    while let Some(answer) = questions.join_next().await {
        if matches!(answer, Ok(Some(()))) {
            return true;
        }
    }
    false
}

fn nofailover(record: &MemberRecord) -> bool {
    record.tags.get("nofailover") == Some(&Value::Bool(true))
}

/// Asks for it in the store; gives the revision from which on the request stands there.
async fn write(shared: &Shared, request: &SwitchoverRequest) -> Result<Revision, Answer> {
    let record = FailoverRecord {
        leader: request.leader.clone(),
        member: request.candidate.clone(),
        scheduled_at: request.scheduled_at,
        handed_over: false,
    };
    let failed = || Answer::from(Reply::FailoverKeyNotWritten);
    let text = to_compact(&record).map_err(|_| failed())?;
    let key = format!("{}{KEY}", shared.prefix);
    match shared.store.txn(Txn::of(vec![Op::put(key, text)]), STORE_WITHIN).await {
        Ok(result) if result.succeeded => Ok(result.revision),
        Ok(_) => Err(failed()),
        Err(error) => {
            tracing::warn!(%error, "a handover could not be asked for");
            Err(failed())
        }
    }
}

/// Waits until somebody else leads and says so, or the request is gone. Woken by the store, so that the answer comes with
/// the event.
async fn wait(shared: &Shared, request: &SwitchoverRequest, old: Option<&str>, asked: Revision) -> Answer {
    let handover = request.handover;
    let limit = 2 * WAIT_MIN.max(shared.now().settings.loop_wait);
    let found = shared.wait_for(limit, |now| ended(now, old, asked)).await;
    match found {
        Some(End::Leads(leader)) => match &request.candidate {
            Some(wanted) if *wanted != leader => {
                Reply::HandedOverToAnother { handover, leader, wanted: wanted.clone() }.into()
            }
            _ => Reply::HandedOver { handover, leader }.into(),
        },
        Some(End::Failed) => {
            let reason = reason(shared, old).await;
            Reply::HandoverFailed { handover, reason }.into()
        }
        None => Reply::HandoverUnknown { handover, waited_s: limit.as_secs() }.into(),
    }
}

fn ended(now: &Snapshot, old: Option<&str>, asked: Revision) -> Option<End> {
    if now.revision < asked {
        return None;
    }
    let view = View::known(now);
    let leader = view.leader?;
    if Some(leader.as_str()) == old {
        return view.failover.is_none().then_some(End::Failed);
    }
    let record = view.members.get(&leader)?;
    (record.role == "primary" && record.state == "running").then_some(End::Leads(leader))
}

/// Why the old leader did not hand over, in its own words.
async fn reason(shared: &Shared, old: Option<&str>) -> Option<String> {
    let now = shared.now();
    let old = old?;
    if old == now.observation.me.as_str() {
        return now.last_handover.clone();
    }
    let base = View::known(&now).members.get(old)?.api_base()?.to_owned();
    let answer = HttpClient::new().get(&format!("{base}/explain"), CANDIDATE_WITHIN).await.ok()?;
    let explained: Value = serde_json::from_slice(&answer.body).ok()?;
    explained.get("last_handover")?.as_str().map(str::to_owned)
}

/// `DELETE /switchover`: only one that waits for its time.
pub(super) async fn unschedule(shared: &Shared) -> Answer {
    let key = format!("{}{KEY}", shared.prefix);
    let found = match shared.store.snapshot(&key, STORE_WITHIN).await {
        Ok(snapshot) => snapshot.get(&key).cloned(),
        Err(error) => return unavailable(&error),
    };
    let scheduled = found.filter(|pair| {
        FailoverRecord::read(&String::from_utf8_lossy(&pair.value)).is_some_and(|record| record.scheduled_at.is_some())
    });
    let Some(pair) = scheduled else { return Reply::NoSwitchoverScheduled.into() };
    let txn = Txn::when(vec![Compare::modified_at(&key, pair.mod_revision)], vec![Op::put(&key, "{}")]);
    match shared.store.txn(txn, STORE_WITHIN).await {
        Ok(result) if result.succeeded => Reply::ScheduledSwitchoverDeleted.into(),
        Ok(_) => Reply::SwitchoverChangedMeanwhile.into(),
        Err(error) => unavailable(&error),
    }
}
