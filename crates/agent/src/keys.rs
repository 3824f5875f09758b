//! The cluster's keys in the store, and how their values become the core's view.
//!
//! The layout is Patroni's ([`pgbaton_api::layout`]) with keys of our own beside it. What cannot be read is taken for what is safest: an unreadable
//! `initialize` for a cluster under way, an unreadable member for one without data that does not lead.

use std::collections::BTreeMap;

pub(crate) use pgbaton_api::layout::{
    CLAIM, CONFIG, EPOCH_BASE as BASE, FAILOVER, HISTORY, INITIALIZE, LEADER, MEMBERS, POOLERS, STATUS, TIMELINE,
    TIMELINES,
};
use pgbaton_api::layout::{FailoverRecord, HistoryRecord, MemberRecord, PoolerRecord, StatusRecord, read_initialize};
use pgbaton_core::observation::{
    Cluster, FailoverRequest, Initialize, LeaderKey, MemberFacts, PoolerFacts, Reservation,
};
use pgbaton_store::{KeyValue, LeaseId};
use pgbaton_types::{BootTime, Epoch, HistoryEntry, Lsn, MemberName, TimelineHistory, TimelineId};
use serde_json::Value;

/// By what a member knows its own claim to make the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Own<'a> {
    /// The lease that its own keys hang on.
    pub(crate) session: Option<LeaseId>,
    /// Its name; none: nobody is looking.
    pub(crate) me: Option<&'a MemberName>,
}

/// The keys of the cluster, without the prefix.
pub(crate) type Keys = BTreeMap<String, KeyValue>;

/// The core's view of the keys. `now` and `unix_ms` are one moment on both clocks.
pub(crate) fn cluster(keys: &Keys, own: Own<'_>, now: BootTime, unix_ms: i64) -> Cluster {
    let base = base(keys);
    let leader = keys.get(LEADER).and_then(|pair| {
        let created = pair.create_revision;
        Some(LeaderKey { member: text(pair).parse().ok()?, created, epoch: Epoch::of(base, created) })
    });
    Cluster {
        initialize: initialize(keys, own),
        leader,
        members: records(keys).map(|(name, record)| (name, facts(&record))).collect(),
        position: position(keys),
        history: history(keys),
        history_epoch: history_epoch(keys),
        reserved: keys.get(TIMELINES).and_then(|pair| {
            let timeline = TimelineId(text(pair).parse().ok()?);
            Some(Reservation { timeline, revision: pair.mod_revision })
        }),
        failover: failover(keys, now, unix_ms),
        base,
        poolers: poolers(keys),
    }
}

/// The poolers that live. One whose record cannot be read counts as one that has not answered.
fn poolers(keys: &Keys) -> BTreeMap<String, PoolerFacts> {
    let records = keys.iter().filter_map(|(key, pair)| Some((key.strip_prefix(POOLERS)?, pair)));
    let facts = |pair: &KeyValue| {
        let record: PoolerRecord = serde_json::from_slice(&pair.value).unwrap_or_default();
        PoolerFacts { answered: record.answered.map(BootTime), holds: record.holds }
    };
    records.map(|(name, pair)| (name.to_owned(), facts(pair))).collect()
}

/// The base of epochs.
pub(crate) fn base(keys: &Keys) -> u64 {
    keys.get(BASE).and_then(|pair| text(pair).parse().ok()).unwrap_or(0)
}

/// The members' slots that the holder keeps.
pub(crate) fn retained_slots(keys: &Keys) -> Vec<String> {
    keys.get(STATUS).and_then(|pair| StatusRecord::read(&text(pair)).retain_slots).unwrap_or_default()
}

/// A value as text.
pub(crate) fn text(pair: &KeyValue) -> String {
    String::from_utf8_lossy(&pair.value).trim().to_owned()
}

/// The records of all members.
pub(crate) fn records(keys: &Keys) -> impl Iterator<Item = (MemberName, MemberRecord)> {
    keys.iter().filter_map(|(key, pair)| {
        let name = key.strip_prefix(MEMBERS)?.parse().ok()?;
        Some((name, MemberRecord::read(&text(pair))))
    })
}

/// The record of one member.
pub(crate) fn record(keys: &Keys, name: &MemberName) -> Option<MemberRecord> {
    keys.get(&format!("{MEMBERS}{name}")).map(|pair| MemberRecord::read(&text(pair)))
}

/// What a member's record says. Patroni's members say nothing about data; their role and state do.
pub(crate) fn facts(record: &MemberRecord) -> MemberFacts {
    let tag = |key: &str| record.tags.get(key);
    let nofailover = tag("nofailover") == Some(&Value::Bool(true))
        || tag("failover_priority").and_then(Value::as_i64).is_some_and(|priority| priority <= 0);
    let making = ["creating replica", "initializing new cluster", "initdb failed"];
    let empty = matches!(record.role.as_str(), "uninitialized" | "") || making.contains(&record.state.as_str());
    MemberFacts { nofailover, has_data: !empty, primary: record.role == "primary" && record.state == "running" }
}

fn initialize(keys: &Keys, own: Own<'_>) -> Initialize {
    let Some(pair) = keys.get(INITIALIZE) else { return Initialize::Absent };
    match read_initialize(&text(pair)) {
        Some(id) => Initialize::Done(id),
        None => {
            let claimed = || keys.get(CLAIM).is_some_and(|claim| own.me.is_some_and(|me| text(claim) == me.as_str()));
            let mine = if pair.lease.is_some() { pair.lease == own.session } else { claimed() };
            Initialize::UnderWay { mine }
        }
    }
}

fn position(keys: &Keys) -> Lsn {
    let status = keys.get(STATUS).map(|pair| StatusRecord::read(&text(pair)).optime);
    let legacy = || keys.get("optime/leader").and_then(|pair| text(pair).parse().ok()).map(Lsn);
    status.or_else(legacy).unwrap_or(Lsn::INVALID)
}

fn history(keys: &Keys) -> Option<TimelineHistory> {
    let pair = keys.get(HISTORY)?;
    let record = HistoryRecord::read(&text(pair))?;
    let entries: Vec<HistoryEntry> = record
        .rows
        .into_iter()
        .map(|row| HistoryEntry { timeline: row.timeline, switch: row.switch, reason: row.reason })
        .collect();
    let after_last = entries.last().map_or(TimelineId::FIRST, |entry| entry.timeline.next());
    // Written in the same transaction: then it belongs to these rows.
    let own = keys.get(TIMELINE).filter(|own| own.mod_revision == pair.mod_revision);
    let timeline = own.and_then(|pair| text(pair).split(' ').next()?.parse().ok()).map_or(after_last, TimelineId);
    TimelineHistory::new(timeline, entries).ok()
}

/// An agent before this one wrote the timeline alone.
fn history_epoch(keys: &Keys) -> Option<Epoch> {
    let (own, pair) = (keys.get(TIMELINE)?, keys.get(HISTORY)?);
    let written = text(own).split(' ').nth(1)?.parse().ok().map(Epoch);
    written.filter(|_| own.mod_revision == pair.mod_revision)
}

fn failover(keys: &Keys, now: BootTime, unix_ms: i64) -> Option<FailoverRequest> {
    let pair = keys.get(FAILOVER)?;
    let record = FailoverRecord::read(&text(pair))?;
    let name = |name: Option<String>| name.and_then(|name| name.parse().ok());
    let due = record.scheduled_at.map(|at| {
        let ahead = at.as_millisecond().saturating_sub(unix_ms);
        now + std::time::Duration::from_millis(u64::try_from(ahead).unwrap_or(0))
    });
    Some(FailoverRequest {
        leader: name(record.leader),
        candidate: name(record.member),
        handed_over: record.handed_over,
        due,
        revision: pair.mod_revision,
    })
}

#[cfg(test)]
mod tests {
    use pgbaton_types::{Revision, SystemId};
    use serde_json::json;

    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        let pair = |(index, (key, value)): (usize, &(&str, &str))| {
            let revision = Revision(index as u64 + 1);
            let pair = KeyValue {
                key: (*key).to_owned(),
                value: value.as_bytes().to_vec(),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: Some(LeaseId(3)),
            };
            ((*key).to_owned(), pair)
        };
        pairs.iter().enumerate().map(pair).collect()
    }

    fn view(pairs: &[(&str, &str)]) -> Cluster {
        let own = Own { session: Some(LeaseId(3)), me: None };
        cluster(&keys(pairs), own, BootTime(1_000_000_000), 0)
    }

    #[test]
    fn the_epoch_is_the_base_and_the_revision_of_the_leader_key() {
        let seen = view(&[(BASE, "40"), (LEADER, "a"), (INITIALIZE, "7000000000000000001")]);
        assert_eq!(seen.leader.unwrap().epoch, Epoch(42));
        assert_eq!(seen.initialize, Initialize::Done(SystemId(7_000_000_000_000_000_001)));
    }

    #[test]
    fn an_empty_initialize_is_mine_by_its_lease() {
        assert_eq!(view(&[(INITIALIZE, "")]).initialize, Initialize::UnderWay { mine: true });
        let other = Own { session: Some(LeaseId(4)), me: None };
        let others = cluster(&keys(&[(INITIALIZE, "")]), other, BootTime(0), 0);
        assert_eq!(others.initialize, Initialize::UnderWay { mine: false });
    }

    #[test]
    fn without_a_lease_it_is_mine_by_the_name_beside_it() {
        let mut claimed = keys(&[(INITIALIZE, ""), (CLAIM, "a")]);
        claimed.get_mut(INITIALIZE).unwrap().lease = None;
        let seen_by = |name: &str| {
            let (me, session) = (name.parse().unwrap(), Some(LeaseId(3)));
            cluster(&claimed, Own { session, me: Some(&me) }, BootTime(0), 0).initialize
        };
        assert_eq!(seen_by("a"), Initialize::UnderWay { mine: true });
        assert_eq!(seen_by("b"), Initialize::UnderWay { mine: false });
        claimed.remove(CLAIM);
        assert_eq!(cluster(&claimed, Own::default(), BootTime(0), 0).initialize, Initialize::UnderWay { mine: false });
    }

    #[test]
    fn a_members_record_says_whether_it_has_data_and_leads() {
        let of =
            |role: &str, state: &str| facts(&MemberRecord::read(&json!({"role": role, "state": state}).to_string()));
        assert!(of("primary", "running").primary && of("master", "running").primary);
        assert!(!of("primary", "starting").primary && of("primary", "starting").has_data);
        assert!(!of("replica", "creating replica").has_data && !of("uninitialized", "stopped").has_data);
        assert!(facts(&MemberRecord::read(r#"{"tags": {"nofailover": true}}"#)).nofailover);
        assert!(facts(&MemberRecord::read(r#"{"tags": {"failover_priority": 0}}"#)).nofailover);
    }

    #[test]
    fn the_status_and_the_history_are_read_in_both_forms() {
        assert_eq!(view(&[(STATUS, r#"{"optime":77}"#)]).position, Lsn(77));
        assert_eq!(view(&[(STATUS, "78")]).position, Lsn(78));
        let history =
            view(&[(HISTORY, r#"[[1,100,"x"],[3,200,"y","2026-01-01T00:00:00+00:00","b"]]"#)]).history.unwrap();
        assert_eq!((history.timeline(), history.ancestors().len()), (TimelineId(4), 2));
        assert_eq!(view(&[(HISTORY, "[]")]).history.unwrap().timeline(), TimelineId(1));
        assert_eq!(view(&[(HISTORY, "broken")]).history, None);
        let mut gap = keys(&[(HISTORY, r#"[[1,100,"x"]]"#), (TIMELINE, "6")]);
        let of = |keys: &Keys| super::history(keys).unwrap().timeline();
        assert_eq!(of(&gap), TimelineId(2), "not of the same transaction");
        gap.get_mut(TIMELINE).unwrap().mod_revision = Revision(1);
        assert_eq!(of(&gap), TimelineId(6));
    }

    #[test]
    fn a_request_is_read_with_its_time() {
        let request =
            view(&[(FAILOVER, r#"{"leader":"a","scheduled_at":"1970-01-01T00:00:05+00:00"}"#)]).failover.unwrap();
        assert_eq!(request.due, Some(BootTime(6_000_000_000)));
        assert!(!request.handed_over && request.candidate.is_none());
        assert_eq!(view(&[(FAILOVER, "{}")]).failover, None);
    }
}
