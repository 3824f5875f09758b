//! Where the baton is: the one document from which everything that clients follow is derived (router, rendered files, addresses,
//! published records), with the epoch that says which of two of them is newer.

use std::collections::BTreeMap;

use pgbaton_types::{BootTime, Epoch, Lsn, MemberName, Revision, TimelineId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layout::{
    EPOCH_BASE, FAILOVER, FailoverRecord, HISTORY, INITIALIZE, LEADER, MEMBERS, MemberRecord, PausingRecord, STATUS,
    StatusRecord, TIMELINE,
};

/// One key below the cluster's prefix, as a store has it.
#[derive(Debug, Clone, Copy)]
pub struct StoredKey<'a> {
    /// The key without the prefix.
    pub name: &'a str,
    /// Its value.
    pub value: &'a [u8],
    /// The revision at which it was created.
    pub created: u64,
    /// The revision at which it was changed last.
    pub modified: u64,
}

/// Where the baton is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baton {
    /// The cluster.
    pub scope: String,
    /// The reign that the store shows; none: nobody holds the lease.
    pub epoch: Option<Epoch>,
    /// The last reign that the store knows of: the present one, or the one before if nobody holds the lease; none: there was none, or not
    /// one of ours.
    #[serde(skip)]
    pub last_reign: Option<Epoch>,
    /// PostgreSQL's system identifier (`pg_control_system()`): one that differs is another cluster, whatever its name; none: not known.
    #[serde(skip)]
    pub system_id: Option<String>,
    /// Who holds the lease, whether its server takes writes yet or not.
    pub leader: Option<MemberName>,
    /// A switchover is asked for and due: the primary is about to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handing_over: bool,
    /// The lease was handed over on purpose, and whoever got it does not take writes yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// The holder asks poolers to hold their clients.
    #[serde(skip)]
    pub pausing: Option<PausingRecord>,
    /// The primary: the holder, once its server takes writes in this reign.
    pub primary: Option<ServerAt>,
    /// The other members whose servers run in recovery, by name.
    pub standbys: Vec<ServerAt>,
    /// The members that are neither, by name: their servers do not run, or are on the way to one or the other.
    #[serde(skip)]
    pub others: Vec<ServerAt>,
}

/// Where the baton was when the store was last asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Where the baton is.
    pub baton: Baton,
    /// When the newest read of the store that this contains was asked for; none: it has not answered yet.
    pub as_of: Option<BootTime>,
    /// The revision of the store that it shows: of two views of one reign, the one with the higher revision is the newer one.
    pub revision: Revision,
}

/// A server that clients may be sent to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerAt {
    /// The member.
    pub name: MemberName,
    /// The host that clients connect to.
    pub host: String,
    /// The port that clients connect to.
    pub port: u16,
    /// The address of its REST API without a path; none: it has not said.
    pub api: Option<String>,
    /// Its timeline.
    pub timeline: Option<TimelineId>,
    /// How many bytes it has to replay to what the primary published last; zero for the primary, none: not known.
    pub lag: Option<u64>,
    /// It streams from another server; a standby that does not falls behind.
    pub streaming: bool,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
}

impl ServerAt {
    /// Whether a tag is on.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.get(tag).is_some_and(|value| *value == Value::Bool(true))
    }

    /// Where it is, as `host:port`; an IPv6 address in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Baton {
    /// Derives it from the keys of a cluster, in any order. What cannot be read is left out: nobody is sent where nothing is known.
    pub fn of<'a>(scope: &str, keys: impl IntoIterator<Item = StoredKey<'a>>) -> Self {
        let keys: BTreeMap<&str, StoredKey<'a>> = keys.into_iter().map(|key| (key.name, key)).collect();
        let text = |name: &str| keys.get(name).map(|key| String::from_utf8_lossy(key.value).trim().to_owned());
        let base = text(EPOCH_BASE).and_then(|text| text.parse().ok()).unwrap_or(0);
        let leader: Option<MemberName> = text(LEADER).and_then(|name| name.parse().ok());
        let created = keys.get(LEADER).map(|key| key.created);
        let epoch = leader.as_ref().and(created).map(|created| Epoch::of(base, Revision(created)));
        let published = text(STATUS).map(|text| StatusRecord::read(&text).optime);
        let records = keys.range(MEMBERS..).map_while(|(name, key)| Some((name.strip_prefix(MEMBERS)?, key)));
        let servers = records.filter_map(|(name, key)| {
            let record = MemberRecord::read(&String::from_utf8_lossy(key.value));
            Some((server(name.parse().ok()?, &record, published)?, record))
        });
        let reigns = reigns(&keys);
        // What takes writes is "promoted" until it has what its standbys need; before that, too, but then it has not said so of this reign,
        // or it has something to replay.
        let said_so = reigns.is_some() && reigns == epoch;
        let is_primary = |record: &MemberRecord| {
            record.role == "primary" || record.role == "promoted" && said_so && record.replay_lsn.is_none()
        };
        let (running, down): (Vec<_>, Vec<_>) = servers.partition(|(_, record)| runs(record));
        let (primaries, standbys): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, record)| is_primary(record));
        let asked = text(FAILOVER).and_then(|text| FailoverRecord::read(&text));
        let writable = epoch.is_some() && reigns.is_none_or(|reign| Some(reign) == epoch);
        let holder = |server: &ServerAt| writable && leader.as_ref() == Some(&server.name);
        let servers = |of: Vec<(ServerAt, MemberRecord)>| of.into_iter().map(|(server, _)| server);
        let (primary, former): (Vec<_>, Vec<_>) = servers(primaries).partition(holder);
        let mut others: Vec<ServerAt> = former.into_iter().chain(servers(down)).collect();
        others.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            scope: scope.to_owned(),
            epoch,
            last_reign: epoch.max(reigns),
            system_id: text(INITIALIZE).filter(|text| !text.is_empty()),
            primary: primary.into_iter().next().map(|server| ServerAt { lag: Some(0), ..server }),
            pausing: leader
                .as_ref()
                .and_then(|name| text(&format!("{MEMBERS}{name}")))
                .and_then(|text| MemberRecord::read(&text).pausing),
            leader,
            handing_over: asked.as_ref().is_some_and(|asked| asked.scheduled_at.is_none() && !asked.handed_over),
            handed_over: asked.is_some_and(|asked| asked.handed_over),
            standbys: servers(standbys).collect(),
            others,
        }
    }
}

/// In which reign a primary has last said that it takes writes; none: the holder is not one of ours, and says so by its record alone.
fn reigns(keys: &BTreeMap<&str, StoredKey<'_>>) -> Option<Epoch> {
    let (own, history) = (keys.get(TIMELINE)?, keys.get(HISTORY)?);
    let text = String::from_utf8_lossy(own.value);
    let epoch = text.split(' ').nth(1)?.trim().parse().ok().map(Epoch);
    epoch.filter(|_| own.modified == history.modified)
}

/// Whether its server answers.
fn runs(record: &MemberRecord) -> bool {
    matches!(record.state.as_str(), "running" | "streaming" | "in archive recovery")
}

/// A member's server; none: its record does not say where it is.
fn server(name: MemberName, record: &MemberRecord, published: Option<Lsn>) -> Option<ServerAt> {
    let streaming = record.replication_state.as_deref() == Some("streaming");
    let (host, port) = record.host_port()?;
    let replayed = record.replay_lsn.or(record.xlog_location);
    let lag = published.zip(replayed).map(|(published, replayed)| published.bytes_ahead_of(replayed));
    Some(ServerAt {
        name,
        host,
        port,
        api: record.api_base().map(str::to_owned),
        timeline: record.timeline,
        lag,
        streaming,
        tags: record.tags.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: &str, port: u16, more: &str) -> String {
        format!(
            r#"{{"conn_url":"postgres://10.0.0.{port}:{port}/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"{role}"{more}}}"#
        )
    }

    fn baton(keys: &[(&str, &str, u64)]) -> Baton {
        Baton::of(
            "demo",
            keys.iter().map(|(name, value, revision)| StoredKey {
                name,
                value: value.as_bytes(),
                created: *revision,
                modified: *revision,
            }),
        )
    }

    #[test]
    fn the_holder_is_the_primary_once_it_takes_writes_in_its_reign() {
        let (primary, standby) = (member("primary", 1, ""), member("replica", 2, r#","replay_lsn":90"#));
        let mut keys = vec![
            (LEADER, "a", 9),
            ("members/a", primary.as_str(), 3),
            ("members/b", standby.as_str(), 4),
            (STATUS, r#"{"optime":100}"#, 5),
            (HISTORY, "[]", 8),
            (TIMELINE, "1 7", 8),
        ];
        let seen = baton(&keys);
        assert_eq!((seen.epoch, seen.primary), (Some(Epoch(9)), None), "it has said so of an earlier reign only");
        assert_eq!(seen.standbys.iter().map(|server| server.lag).collect::<Vec<_>>(), [Some(10)]);
        keys[5].1 = "1 9";
        let primary = baton(&keys).primary.unwrap();
        assert_eq!((primary.name.as_str(), primary.address().as_str(), primary.lag), ("a", "10.0.0.1:1", Some(0)));
    }

    #[test]
    fn who_was_promoted_is_the_primary_once_it_has_said_so_of_its_reign() {
        let promoted = member("promoted", 1, "");
        let mut keys =
            vec![(LEADER, "a", 9), ("members/a", promoted.as_str(), 3), (HISTORY, "[]", 8), (TIMELINE, "1 7", 8)];
        assert_eq!(baton(&keys).primary, None, "it may still be in recovery");
        keys[3].1 = "1 9";
        assert_eq!(baton(&keys).primary.map(|server| server.port), Some(1));
        assert_eq!(baton(&keys[..2]).primary, None, "the word of who is not one of ours means recovery");
        let again = member("promoted", 1, r#","replay_lsn":90"#);
        keys[1].1 = again.as_str();
        assert_eq!(baton(&keys).primary, None, "it was made a standby, and is promoted once more");
    }

    #[test]
    fn a_holder_that_is_not_ours_is_the_primary_by_its_record() {
        let patroni = member("master", 1, "");
        let seen = baton(&[(LEADER, "a", 9), ("members/a", patroni.as_str(), 3)]);
        assert_eq!(seen.primary.map(|server| server.port), Some(1));
    }

    #[test]
    fn who_is_not_the_holder_is_no_primary_and_who_does_not_run_is_no_standby() {
        let (primary, stopped) = (member("primary", 1, ""), member("replica", 2, "").replace("running", "stopped"));
        let seen = baton(&[("members/a", primary.as_str(), 3), ("members/b", stopped.as_str(), 4)]);
        assert_eq!((seen.primary, seen.standbys), (None, Vec::new()));
        assert_eq!(seen.others.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_address_of_ipv6_is_in_brackets() {
        let patroni = member("primary", 1, "").replace("10.0.0.1:1/", "[fd00::1]:5433/");
        let seen = baton(&[(LEADER, "a", 9), ("members/a", patroni.as_str(), 3)]);
        assert_eq!(seen.primary.unwrap().address(), "[fd00::1]:5433");
    }
}
