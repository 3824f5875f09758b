use std::collections::BTreeMap;

use pgbaton_types::{Epoch, Lsn, MemberName, ShutdownCheckpoint, SystemId, TimelineHistory, TimelineId};
use serde::{Deserialize, Serialize};

/// `GET`: where a member stands.
pub const PATH_POSITION: &str = "/pgbaton/position";
/// `POST`: a candidate is asked to make itself ready.
pub const PATH_PREPARE: &str = "/pgbaton/prepare";
/// `POST`: a candidate is asked for proof that it holds everything.
pub const PATH_PROVE: &str = "/pgbaton/prove";

/// Where a member stands. A member without data or without an answering server leaves out what it does not know;
/// whoever reads it must not take an absent position for zero loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Who answers.
    pub member: String,
    /// The cluster that it belongs to: an answer of another cluster does not count.
    pub scope: String,
    /// The identity of its data; none without data.
    pub system_id: Option<SystemId>,
    /// Whether its server is in recovery; none when no server answered.
    pub in_recovery: Option<bool>,
    /// Its newest timeline with ancestors, of what it has received.
    pub history: Option<TimelineHistory>,
    /// How far it has received and flushed WAL, or written it; never less than what it replayed.
    pub received: Lsn,
    /// How far it has replayed.
    pub replayed: Lsn,
    /// The status of its WAL receiver, from `pg_stat_wal_receiver`; none without one.
    pub receiver: Option<String>,
    /// The highest epoch that it has seen.
    pub epoch_seen: Option<Epoch>,
    /// The highest timeline number that it has seen given out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline_seen: Option<TimelineId>,
    /// Why it would not lead if there were no leader; none: it would.
    pub unfit: Option<String>,
    /// Its `failover_priority`.
    pub priority: u32,
    /// A checkpoint has completed since it was promoted; for a primary.
    pub checkpointed: bool,
    /// The epoch for whose handover it has made itself ready.
    pub prepared: Option<Epoch>,
    /// What is known of its host without asking its server.
    pub host: PeerHost,
}

/// What is known of a host without asking its server: it decides whether a store without history may grant a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHost {
    /// A server runs there that is not proven to be in recovery.
    pub primary_may_run: bool,
    /// The longest time in milliseconds that a lease which it holds, has asked for, or has recorded beside the data may still have to run.
    pub lease_left_ms: u64,
    /// The highest timeline number that occurs in its data; none: no data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// The other members that it knows, with the addresses of their REST API. Only where the store lists no hosts: whoever asks may never
    /// have seen them there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<MemberName, String>,
}

/// The holder asks its candidate to make itself ready: replay resumed and not delayed, close to what it has received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareRequest {
    /// The cluster.
    pub scope: String,
    /// The candidate that is meant: a request that reached another member is refused.
    pub candidate: String,
    /// The holder.
    pub holder: String,
    /// The reign that will end.
    pub epoch: Epoch,
}

/// The answer to a [`PrepareRequest`], given once the work has begun; [`Position::prepared`] says when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareReply {
    /// Whether the candidate makes itself ready.
    pub accepted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The holder, whose server is stopped, asks its candidate whether it holds the last record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveRequest {
    /// The cluster.
    pub scope: String,
    /// The candidate that is meant: a request that reached another member is refused.
    pub candidate: String,
    /// The reign that ends.
    pub epoch: Epoch,
    /// The record.
    pub checkpoint: ShutdownCheckpoint,
    /// How long the candidate may wait for the record before it says no, in milliseconds.
    pub wait_ms: u64,
}

/// The answer to a [`ProveRequest`]. Only `holds` with the same checkpoint lets the holder give up the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The member that answers.
    pub member: String,
    /// The record that it was asked for.
    pub checkpoint: ShutdownCheckpoint,
    /// The very record is in its WAL, and everything before it.
    pub holds: bool,
    /// How far it has received.
    pub received: Lsn,
    /// Why it does not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_compact;

    fn checkpoint() -> ShutdownCheckpoint {
        ShutdownCheckpoint {
            system_id: SystemId(7_311_111_111_111_111_111),
            timeline: TimelineId(1),
            start: Lsn(0x300_0028),
            end: Lsn(0x300_00A0),
            previous: Lsn(0x300_0000),
            crc: 0xDEAD_BEEF,
        }
    }

    #[test]
    fn messages_between_members_keep_their_form() {
        let request = ProveRequest {
            scope: "demo".to_owned(),
            candidate: "b".to_owned(),
            epoch: Epoch(7),
            checkpoint: checkpoint(),
            wait_ms: 500,
        };
        let text = to_compact(&request).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"scope":"demo","candidate":"b","epoch":7,"checkpoint":{"system_id":7311111111111111111,"#,
                r#""timeline":1,"start":50331688,"end":50331808,"previous":50331648,"crc":3735928559},"wait_ms":500}"#
            )
        );
        assert_eq!(serde_json::from_str::<ProveRequest>(&text).unwrap(), request);
        let proof = Proof {
            member: "b".to_owned(),
            checkpoint: checkpoint(),
            holds: false,
            received: Lsn(1),
            reason: Some("it is 5 bytes short".to_owned()),
        };
        assert_eq!(serde_json::from_str::<Proof>(&to_compact(&proof).unwrap()).unwrap(), proof);
    }

    #[test]
    fn a_message_without_a_field_that_matters_is_refused() {
        for text in [r#"{"member":"b","holds":true,"received":5}"#, r#"{"member":"b","received":5}"#, "{}"] {
            assert!(serde_json::from_str::<Proof>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_position_survives_a_round_trip() {
        let position = Position {
            member: "b".to_owned(),
            scope: "demo".to_owned(),
            system_id: Some(SystemId(5)),
            in_recovery: Some(true),
            history: Some(TimelineHistory::root(TimelineId(1)).fork(TimelineId(2), Lsn(9), "r")),
            received: Lsn(20),
            replayed: Lsn(10),
            receiver: Some("streaming".to_owned()),
            epoch_seen: Some(Epoch(7)),
            timeline_seen: None,
            unfit: None,
            priority: 1,
            checkpointed: false,
            prepared: Some(Epoch(7)),
            host: PeerHost {
                primary_may_run: false,
                lease_left_ms: 0,
                timeline: Some(TimelineId(2)),
                members: BTreeMap::from([("c".parse().unwrap(), "http://192.0.2.3:8008".to_owned())]),
            },
        };
        assert_eq!(serde_json::from_str::<Position>(&to_compact(&position).unwrap()).unwrap(), position);
    }

    #[test]
    fn a_host_that_knows_nobody_says_nothing_of_members() {
        let host = PeerHost { primary_may_run: false, lease_left_ms: 5, timeline: None, members: BTreeMap::new() };
        let text = to_compact(&host).unwrap();
        assert_eq!(text, r#"{"primary_may_run":false,"lease_left_ms":5}"#);
        assert_eq!(serde_json::from_str::<PeerHost>(&text).unwrap(), host);
    }
}
