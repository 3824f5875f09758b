//! The keys of the simulated cluster in the store and how they are written. Shorter than the real ones, with the same
//! meaning; the machine that holds them is the real one.

use std::rc::Rc;

use pgbaton_core::observation::{
    Cluster, FailoverRequest, Initialize, LeaderKey, MemberFacts, PoolerFacts, Reservation,
};
use pgbaton_store::{LeaseId, Machine};
use pgbaton_types::{BootTime, Epoch, HistoryEntry, Lsn, MemberName, Revision, SystemId, TimelineHistory, TimelineId};

use crate::time::Time;

/// Bound to the lease of whoever leads.
pub(crate) const LEADER: &str = "leader";
/// Identity of the cluster.
pub(crate) const INITIALIZE: &str = "initialize";
/// Who makes the cluster, where the store lists no hosts: a claim that outlives its maker.
pub(crate) const CLAIM: &str = "claim";
/// Last published position.
pub(crate) const STATUS: &str = "status";
/// Last published history.
pub(crate) const HISTORY: &str = "history";
/// The reign in which it was published.
pub(crate) const HISTORY_EPOCH: &str = "history_epoch";
/// Highest timeline number that was given out.
pub(crate) const RESERVED: &str = "reserved";
/// A switchover or failover that was asked for.
pub(crate) const FAILOVER: &str = "failover";
/// Base of epochs.
pub(crate) const BASE: &str = "base";
/// Before each member's name.
pub(crate) const MEMBERS: &str = "members/";

/// Before each pooler's number.
pub(crate) const POOLERS: &str = "poolers/";

/// The keys, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decoded {
    /// What all members see alike. `Initialize::UnderWay` and the time of a failover request are filled in for each.
    pub(crate) cluster: Cluster,
    /// The session that claimed the bootstrap.
    pub(crate) claimed_by: Option<LeaseId>,
    /// The member that did, where the claim outlives it.
    pub(crate) claimant: Option<MemberName>,
    /// When the failover request is due, in true time.
    pub(crate) failover_due: Option<Time>,
}

/// Reads all keys.
pub(crate) fn decode(machine: &Machine) -> Rc<Decoded> {
    let mut decoded = Decoded::default();
    let text = |key: &str| machine.get(key).map(|pair| (String::from_utf8_lossy(&pair.value).into_owned(), pair));
    let number = |key: &str| text(key).and_then(|(value, _)| value.parse::<u64>().ok());
    let cluster = &mut decoded.cluster;
    cluster.base = number(BASE).unwrap_or(0);
    cluster.position = Lsn(number(STATUS).unwrap_or(0));
    cluster.history = text(HISTORY).and_then(|(value, _)| read_history(&value));
    cluster.history_epoch = number(HISTORY_EPOCH).map(Epoch);
    cluster.leader = text(LEADER).and_then(|(value, pair)| {
        let epoch = Epoch::of(cluster.base, pair.create_revision);
        Some(LeaderKey { member: value.parse().ok()?, created: pair.create_revision, epoch })
    });
    cluster.reserved = text(RESERVED).and_then(|(value, pair)| {
        Some(Reservation { timeline: TimelineId(value.parse().ok()?), revision: pair.mod_revision })
    });
    if let Some((value, pair)) = text(INITIALIZE) {
        cluster.initialize = match value.parse() {
            Ok(id) => Initialize::Done(SystemId(id)),
            Err(_) => Initialize::UnderWay { mine: false },
        };
        decoded.claimed_by = pair.lease;
        decoded.claimant = text(CLAIM).and_then(|(value, _)| value.parse().ok());
    }
    if let Some((value, pair)) = text(FAILOVER) {
        let (request, due) = read_failover(&value, pair.mod_revision);
        cluster.failover = request;
        decoded.failover_due = due;
    }
    for pair in machine.range(MEMBERS) {
        let flag = |index: usize| pair.value.get(index) == Some(&b'1');
        if let Ok(name) = pair.key[MEMBERS.len()..].parse() {
            let facts = MemberFacts { nofailover: flag(0), has_data: flag(1), primary: flag(2) };
            cluster.members.insert(name, facts);
        }
    }
    for pair in machine.range(POOLERS) {
        cluster.poolers.insert(pair.key[POOLERS.len()..].to_owned(), read_pooler(&pair.value));
    }
    Rc::new(decoded)
}

/// What a pooler has answered as its key's value.
pub(crate) fn write_pooler(answered: BootTime, holds: bool) -> String {
    format!("{}|{}", answered.0, u8::from(holds))
}

/// One that was never asked has an empty value.
fn read_pooler(value: &[u8]) -> PoolerFacts {
    let text = String::from_utf8_lossy(value);
    let (answered, holds) = text.split_once('|').unwrap_or_default();
    PoolerFacts { answered: answered.parse().ok().map(BootTime), holds: holds == "1" }
}

/// A member's facts as its key's value.
pub(crate) fn write_facts(facts: &MemberFacts) -> Vec<u8> {
    [facts.nofailover, facts.has_data, facts.primary].iter().map(|flag| if *flag { b'1' } else { b'0' }).collect()
}

/// A history as its key's value.
pub(crate) fn write_history(history: &TimelineHistory) -> String {
    let entries = history.ancestors().iter().map(|entry| format!("{},{}", entry.timeline.0, entry.switch.0));
    entries.chain([history.timeline().0.to_string()]).collect::<Vec<_>>().join(";")
}

fn read_history(text: &str) -> Option<TimelineHistory> {
    let mut entries = Vec::new();
    for part in text.split(';') {
        let Some((timeline, switch)) = part.split_once(',') else {
            return TimelineHistory::new(TimelineId(part.parse().ok()?), entries).ok();
        };
        let timeline = TimelineId(timeline.parse().ok()?);
        let switch = Lsn(switch.parse().ok()?);
        entries.push(HistoryEntry { timeline, switch, reason: SWITCH_REASON.to_owned() });
    }
    None
}

/// The reason in every history of the simulated servers, so that equal histories are equal.
pub(crate) const SWITCH_REASON: &str = "promoted";

/// A failover request as its key's value.
pub(crate) fn write_failover(
    leader: Option<&MemberName>,
    candidate: Option<&MemberName>,
    handed: bool,
    due: Option<Time>,
) -> String {
    let name = |member: Option<&MemberName>| member.map(ToString::to_string).unwrap_or_default();
    let due = due.map(|time| time.to_string()).unwrap_or_default();
    format!("{}|{}|{}|{due}", name(leader), name(candidate), u8::from(handed))
}

fn read_failover(text: &str, revision: Revision) -> (Option<FailoverRequest>, Option<Time>) {
    let parts: Vec<&str> = text.split('|').collect();
    let [leader, candidate, handed, due] = parts[..] else { return (None, None) };
    let request = FailoverRequest {
        leader: leader.parse().ok(),
        candidate: candidate.parse().ok(),
        handed_over: handed == "1",
        due: None,
        revision,
    };
    (Some(request), due.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_and_requests_survive_a_round_trip() {
        let one = TimelineHistory::root(TimelineId(1));
        let history = one.fork(TimelineId(3), Lsn(500), SWITCH_REASON).fork(TimelineId(4), Lsn(900), SWITCH_REASON);
        assert_eq!(read_history(&write_history(&history)), Some(history));
        let candidate: MemberName = "b".parse().unwrap();
        let text = write_failover(None, Some(&candidate), true, Some(77));
        let (request, due) = read_failover(&text, Revision(5));
        assert_eq!(due, Some(77));
        let request = request.unwrap();
        assert_eq!((request.leader, request.candidate, request.handed_over), (None, Some(candidate), true));
    }
}
