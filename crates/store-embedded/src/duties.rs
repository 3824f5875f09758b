use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use pgbaton_store::Command;
use pgbaton_types::BootTime;

use crate::disk_pace::DiskPace;
use crate::node::Node;
use crate::raft_types::Request;
use crate::state_machine::now;
use crate::timing::{SLOW_FLUSH, STUCK_FLUSH};

/// The longest pause between two looks: what a slow disk is noticed late by. What cannot wait for it wakes [`keep`] itself: a
/// change of the leader, a failed log. The end of a lease is looked for at its time; one that began since the last look has longer
/// than this, as the agents' leases are of seconds.
const LOOK: Duration = Duration::from_millis(500);

/// The pause instead when something is under way that shall not take long: a write of the log, the end of a lease that was not
/// committed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the end of a lease may take to be committed before it is proposed again.
const EXPIRE_WITHIN: Duration = Duration::from_secs(2);

/// At most so often leadership is moved off the member that holds the baton: moving it costs a moment without a leader.
const AVOID_EVERY: Duration = Duration::from_mins(1);

/// At most so often leadership is handed over because of a slow disk.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);

/// How many entries a voter may be behind to take over the leadership.
const CAUGHT_UP_ENTRIES: u64 = 16;

/// What a leader does besides answering: ends leases that ran out, gives the leadership away when its disk is slow or its
/// host holds the baton. Also notices when Raft or the log has stopped.
pub(crate) async fn keep(node: Arc<Node>) {
    let mut failed = node.flush.failed();
    let mut server = node.raft.server_metrics();
    let mut avoided: Option<BootTime> = None;
    let mut handed_over: Option<BootTime> = None;
    let mut disk = DiskPace::default();
    loop {
        drop(server.borrow_and_update());
        let leads = node.leading_term().is_some();
        let mut pause = if leads { end_leases(&node).await } else { LOOK };
        let busy = disk.look(&node);
        if leads {
            if !busy.is_zero() {
                pause = pause.min(LOOK_AGAIN);
            }
            let faster = disk.others_are_faster();
            if busy > SLOW_FLUSH && faster && due(handed_over, HAND_OVER_EVERY) {
                handed_over = Some(now());
                let least = node.flush.synced();
                hand_over(&node, least, "its disk is slow").await;
            }
            if busy > STUCK_FLUSH && faster {
                stop(&node, format!("a write of the log has taken {} ms, and nobody took over", busy.as_millis()))
                    .await;
                return;
            }
            if node.prefers_not_to_lead.load(Ordering::Acquire) && due(avoided, AVOID_EVERY) && disk.is_quick() {
                // Only a transfer counts: nobody may have caught up yet.
                avoided = hand_over(&node, 0, "its host holds the baton").await.then(now).or(avoided);
            }
        }
        let news = async {
            tokio::select! {
                // What it says is read where the borrow has ended.
                failed = failed.wait_for(Option::is_some) => { drop(failed); false }
                changed = server.changed() => changed.is_err(),
            }
        };
        let ended = tokio::time::timeout(pause, news).await.unwrap_or(false);
        let failure = failed.borrow().clone();
        if let Some(reason) = failure {
            stop(&node, reason).await;
            return;
        }
        if let Some(reason) = last_words(&node, ended) {
            node.set_fatal(reason);
            return;
        }
    }
}

/// Why Raft has stopped, if it has; `ended`: nothing more comes from it.
fn last_words(node: &Node, ended: bool) -> Option<String> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    match &metrics.running_state {
        Err(error) => Some(error.to_string()),
        Ok(()) => ended.then(|| "Raft ended without giving a reason; this is a bug".to_owned()),
    }
}

pub(crate) fn due(last: Option<BootTime>, every: Duration) -> bool {
    last.is_none_or(|last| now().since(last) >= every)
}

async fn stop(node: &Node, reason: String) {
    node.set_fatal(reason);
    if let Err(error) = node.raft.shutdown().await {
        tracing::error!(%error, "Raft did not stop in order");
    }
}

/// Proposes the end of leases that have run out; returns the pause until the next one may.
async fn end_leases(node: &Node) -> Duration {
    let (ids, next) = {
        let mut applied = node.machine.locked();
        (applied.times.due(now()), applied.times.next_expiry())
    };
    if ids.is_empty() {
        return next.map_or(LOOK, |next| next.since(now()).min(LOOK));
    }
    tracing::info!(?ids, "leases have run out");
    let proposal = node.raft.client_write(Request(Command::LeaseExpire { ids }));
    match tokio::time::timeout(EXPIRE_WITHIN, proposal).await {
        Ok(Ok(_applied)) => Duration::ZERO,
        Ok(Err(error)) => {
            tracing::info!(%error, "the end of leases was not committed");
            LOOK_AGAIN
        }
        Err(_) => {
            tracing::warn!("the end of leases was not committed in time");
            LOOK_AGAIN
        }
    }
}

/// The voter other than this one that has the most on its disk, if this node leads: what it has is not far behind what this node
/// has, and no less than the entry `least`.
pub(crate) fn furthest(node: &Node, least: u64) -> Option<u64> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.state != ServerState::Leader {
        return None;
    }
    let enough = metrics.last_log_index.unwrap_or(0).saturating_sub(CAUGHT_UP_ENTRIES).max(least);
    let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
    let replication = metrics.replication.iter().flatten();
    replication
        .filter(|(id, _)| **id != metrics.id && voters.contains(id))
        .filter_map(|(id, matched)| matched.as_ref().map(|matched| (matched.index, *id)))
        .filter(|(index, _)| *index >= enough)
        .max()
        .map(|(_, id)| id)
}

/// Asks the voter that is furthest, and has the entry `least`, to take over; `false`: there is none.
async fn hand_over(node: &Node, least: u64, why: &str) -> bool {
    let target = furthest(node, least);
    let Some(target) = target else { return false };
    tracing::info!(to = format!("{target:016x}"), why, "this node gives the leadership of the store away");
    if let Err(error) = node.raft.trigger().transfer_leader(target).await {
        tracing::warn!(%error, "the leadership of the store was not given away");
        return false;
    }
    true
}
