//! What this member publishes: its own record, and as the holder the position and the history.
//!
//! A task of its own, so that a slow store never delays the loop. Positions are written at most once per loop, since each write is a sync
//! on every voter; a change of role or state is written at once, since others wait for it.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::layout::{HistoryRecord, MemberRecord, StatusRecord};
use pgbaton_net::HttpClient;
use pgbaton_store::{Compare, Op, StoreError, Terms, Txn};
use pgbaton_types::{Epoch, Lsn, Revision, TimelineHistory, chain};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;
use crate::context::Context;
use crate::event::Event;
use crate::keys;
use crate::view;

/// Wait before the next try when the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What shall be published.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Publication {
    /// This member's record.
    pub(crate) record: MemberRecord,
    /// What only the holder writes.
    pub(crate) holder: Option<HolderPublication>,
}

/// What only the holder writes, and only while the leader key is the one that it created.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HolderPublication {
    /// The creation revision of the leader key.
    pub(crate) created: Revision,
    /// How far the WAL is written.
    pub(crate) position: Option<Lsn>,
    /// The history of the timeline.
    pub(crate) history: Option<TimelineHistory>,
    /// The members' slots that are kept, in order.
    pub(crate) slots: Vec<String>,
}

impl Publication {
    /// Whether `other` differs in more than positions.
    fn differs_in_kind(&self, other: &Self) -> bool {
        let without = |record: &MemberRecord| MemberRecord {
            xlog_location: None,
            replay_lsn: None,
            receive_lsn: None,
            ..record.clone()
        };
        let history =
            |publication: &Self| publication.holder.as_ref().map(|holder| (holder.created, holder.history.clone()));
        without(&self.record) != without(&other.record) || history(self) != history(other)
    }
}

/// Publishes whatever `wanted` holds, for as long as the agent runs.
pub(crate) async fn publish(context: Arc<Context>, mut wanted: watch::Receiver<Publication>) {
    if let Some(address) = name_taken(&context).await {
        context.wake(Event::NameTaken { address });
        return;
    }
    let mut written = Written::default();
    let mut last = Publication::default();
    loop {
        let wait = context.config().settings.loop_wait;
        let urgent = async {
            loop {
                if wanted.changed().await.is_err() {
                    // The loop has ended; the timer below ends this as well.
                    std::future::pending::<()>().await;
                }
                if wanted.borrow_and_update().differs_in_kind(&last) {
                    return;
                }
            }
        };
        tokio::select! {
            () = urgent => {}
            () = sleep(wait) => {}
        }
        let publication = wanted.borrow_and_update().clone();
        if publication.record.conn_url.is_empty() {
            continue;
        }
        match write(&context, &publication, &mut written).await {
            Ok(()) => last = publication,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "this member's records were not published");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// How long another agent of this name may take to say that it lives.
const LIVENESS_TIME: Duration = Duration::from_millis(500);

/// Where another agent with this name answers. The record of an earlier life has this member's own address.
async fn name_taken(context: &Context) -> Option<String> {
    while !view::read_once(context, context.config().settings.retry_timeout).await {
        sleep(RETRY_PAUSE).await;
    }
    let own = context.config().local.restapi.api_url();
    let record = keys::record(&context.view.keys(), &context.me).filter(|record| record.api_url != own)?;
    let address = record.api_base()?.to_owned();
    let answer = HttpClient::new().get(&format!("{address}/liveness"), LIVENESS_TIME).await;
    answer.is_ok().then_some(address)
}

/// What the store has from this agent already.
#[derive(Debug, Default)]
struct Written {
    holder: Option<HolderPublication>,
}

async fn write(context: &Context, publication: &Publication, written: &mut Written) -> Result<(), StoreError> {
    let settings = context.config().settings.clone();
    let record = pgbaton_api::to_compact(&publication.record).unwrap_or_default();
    let began = context.session.lease().is_none();
    let seen = context.view.keys();
    let holder = publication.holder.as_ref();
    // One transaction: whoever follows the primary needs both, and each is a sync on every voter.
    let mut more = holder.and_then(|holder| of_holder(context, &seen, holder, written.holder.as_ref()));
    let terms = Terms { ttl: settings.ttl, deadline: settings.retry_timeout, now: clock::now() };
    context.session.publish_with(&*context.store, record.as_bytes(), &mut more, terms).await?;
    if began {
        // The loop may wait for a session to claim a bootstrap with.
        context.wake(Event::StoreChanged);
    }
    if let Some(txn) = more {
        context.store.txn(txn, settings.retry_timeout).await?;
    }
    let changed = holder.is_some() && written.holder.as_ref() != holder;
    if changed && !seen.contains_key(keys::CONFIG) && seen.contains_key(keys::INITIALIZE) {
        crate::operations::publish_config(context).await?;
    }
    written.holder = holder.cloned();
    Ok(())
}

/// What of the holder's the store does not have yet.
fn of_holder(
    context: &Context,
    seen: &keys::Keys,
    holder: &HolderPublication,
    written: Option<&HolderPublication>,
) -> Option<Txn> {
    let known = written.filter(|old| old.created == holder.created);
    let mut ops = Vec::new();
    let status_changed = known.is_none_or(|old| old.position != holder.position || old.slots != holder.slots);
    if let Some(position) = holder.position.filter(|_| status_changed) {
        let retain_slots = Some(holder.slots.clone()).filter(|slots| !slots.is_empty());
        let status = StatusRecord { optime: position, retain_slots, ..StatusRecord::default() };
        ops.push(Op::put(context.key(keys::STATUS), pgbaton_api::to_compact(&status).unwrap_or_default()));
    }
    if let Some(history) =
        holder.history.as_ref().filter(|history| known.is_none_or(|old| old.history.as_ref() != Some(history)))
    {
        let old = seen.get(keys::HISTORY).and_then(|pair| HistoryRecord::read(&keys::text(pair)));
        let limit = context.config().effective.cluster.max_timelines_history;
        let time = pgbaton_api::iso(jiff::Timestamp::now());
        let record = HistoryRecord::of(history, old.as_ref(), &time, context.me.as_str(), limit);
        ops.push(Op::put(context.key(keys::HISTORY), pgbaton_api::to_compact(&record).unwrap_or_default()));
        let epoch = Epoch::of(keys::base(seen), holder.created);
        ops.push(Op::put(context.key(keys::TIMELINE), format!("{} {}", history.timeline(), epoch.0)));
    }
    if ops.is_empty() {
        return None;
    }
    let leader = context.key(keys::LEADER);
    let only_holder = vec![
        Compare::created_at(&leader, holder.created),
        Compare::Value { key: leader, value: context.me.as_str().into() },
    ];
    Some(Txn::when(only_holder, ops))
}
