use pgbaton_api::{ServerAt, View};
use pgbaton_types::{Epoch, MemberName, Revision, TimelineId};
use serde::{Deserialize, Serialize};

/// The version of records that is written.
pub const RECORD_VERSION: u32 = 1;

/// Where the primary is: what is published, as a JSON document with its fields in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this document: [`RECORD_VERSION`].
    pub version: u32,
    /// The cluster.
    pub scope: String,
    /// PostgreSQL's system identifier; none: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_id: Option<String>,
    /// The reign: of two records, the one with the higher epoch is the newer one. None: there was never a primary.
    pub epoch: Option<Epoch>,
    /// The revision of the cluster's store that this shows: of two records of one epoch, the one with the higher revision is the newer one.
    pub revision: Revision,
    /// The primary's timeline; none without a primary, or when it has not said.
    pub timeline: Option<TimelineId>,
    /// The primary; none: there is none at the moment.
    pub primary: Option<Server>,
    /// The other members whose servers run, by name.
    pub standbys: Vec<Server>,
    /// Which publisher has written this.
    pub written_by: String,
}

/// A server that clients may connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// The member.
    pub name: MemberName,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as a connection string of libpq's, without a user or a database.
    pub conninfo: String,
    /// Of a standby: it streams from another server, and does not fall behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
}

/// What a record is to one that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is newer and says something else: it is to be written.
    Write,
    /// It says the same.
    Same,
    /// The one that is there is newer.
    Older,
}

impl Record {
    /// What a view says. `reign` is the highest epoch that was seen: without a holder, it is the one that has ended.
    pub(crate) fn of(view: &View, reign: Option<Epoch>, written_by: &str) -> Self {
        let baton = &view.baton;
        Self {
            version: RECORD_VERSION,
            scope: baton.scope.clone(),
            system_id: baton.system_id.clone(),
            epoch: reign.max(baton.epoch).max(baton.last_reign),
            revision: view.revision,
            timeline: baton.primary.as_ref().and_then(|primary| primary.timeline),
            primary: baton.primary.as_ref().map(|primary| Server::of(primary, None)),
            standbys: baton.standbys.iter().map(|standby| Server::of(standby, Some(standby.streaming))).collect(),
            written_by: written_by.to_owned(),
        }
    }

    /// Reads what somebody has published.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// As it is published.
    pub(crate) fn text(&self) -> String {
        // Names, numbers and texts: nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the two say the same, whoever wrote them and when.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let said = |record: &Self| Self { revision: Revision(0), written_by: String::new(), ..record.clone() };
        said(self) == said(other)
    }

    /// Whether the other one is of a cluster that was made anew, or of another one with the same name.
    pub(crate) fn is_of_another_than(&self, other: &Self) -> bool {
        self.system_id.as_ref().zip(other.system_id.as_ref()).is_some_and(|(own, others)| own != others)
    }

    /// What this is to the record that is there. Without a holder of the lease it is of the last reign that its store knows: one that has
    /// seen less does not know whether the reign of the other has ended.
    pub(crate) fn judged_by(&self, there: Option<&Self>) -> Judgement {
        let Some(there) = there else { return Judgement::Write };
        if self.says_the_same(there) {
            Judgement::Same
        } else if (self.epoch, self.revision) > (there.epoch, there.revision) {
            Judgement::Write
        } else {
            Judgement::Older
        }
    }
}

impl Server {
    pub(crate) fn of(server: &ServerAt, streaming: Option<bool>) -> Self {
        Self {
            name: server.name.clone(),
            host: server.host.clone(),
            port: server.port,
            conninfo: format!("host={} port={}", quoted(&server.host), server.port),
            streaming,
        }
    }
}

/// A value in a connection string (PostgreSQL documentation, "Keyword/Value Connection Strings").
fn quoted(value: &str) -> String {
    if value.contains([' ', '\'', '\\']) || value.is_empty() {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use pgbaton_api::Baton;
    use pgbaton_types::BootTime;

    use super::*;

    /// A server on a timeline.
    pub(crate) fn server(name: &str, timeline: u32, streaming: bool) -> ServerAt {
        ServerAt {
            name: name.parse().unwrap(),
            host: format!("10.0.0.{}", name.len()),
            port: 5432,
            api: None,
            timeline: Some(TimelineId(timeline)),
            lag: Some(0),
            streaming,
            tags: serde_json::Map::new(),
        }
    }

    /// A view of a reign.
    pub(crate) fn view(epoch: u64, revision: u64, primary: Option<ServerAt>, standbys: Vec<ServerAt>) -> View {
        let baton = Baton {
            scope: "demo".to_owned(),
            epoch: (epoch > 0).then_some(Epoch(epoch)),
            leader: primary.as_ref().map(|server| server.name.clone()),
            primary,
            standbys,
            ..Baton::default()
        };
        View { baton, as_of: Some(BootTime(1)), revision: Revision(revision) }
    }

    fn record(epoch: u64, revision: u64, primary: &str) -> Record {
        let primary = (!primary.is_empty()).then(|| server(primary, 1, false));
        Record::of(&view(epoch, revision, primary, Vec::new()), None, "me")
    }

    #[test]
    fn its_text_is_documented() {
        let mut seen = view(7, 90, Some(server("a", 3, false)), vec![server("bb", 3, true)]);
        seen.baton.system_id = Some("7300000000000000001".to_owned());
        let wanted = concat!(
            r#"{"version":1,"scope":"demo","system_id":"7300000000000000001","epoch":7,"revision":90,"timeline":3,"#,
            r#""primary":{"name":"a","host":"10.0.0.1","port":5432,"conninfo":"host=10.0.0.1 port=5432"},"#,
            r#""standbys":[{"name":"bb","host":"10.0.0.2","port":5432,"conninfo":"host=10.0.0.2 port=5432","streaming":true}],"#,
            r#""written_by":"me"}"#
        );
        let record = Record::of(&seen, None, "me");
        assert_eq!(record.text(), wanted);
        assert_eq!(Record::read(wanted.as_bytes()), Some(record));
        assert_eq!(Record::read(b"hello"), None);
        assert_eq!(quoted("a b'c"), r"'a b\'c'");
    }

    #[test]
    fn a_newer_one_is_written_over_an_older_one_and_never_the_other_way_round() {
        let there = record(7, 90, "a");
        assert_eq!(there.judged_by(None), Judgement::Write);
        for (new, wanted) in [
            (record(8, 80, "b"), Judgement::Write),
            (record(7, 91, "b"), Judgement::Write),
            (record(7, 95, "a"), Judgement::Same),
            (record(7, 85, "a"), Judgement::Same),
            (record(7, 89, "b"), Judgement::Older),
            (record(6, 99, "b"), Judgement::Older),
            (record(6, 99, "a"), Judgement::Older),
        ] {
            assert_eq!(new.judged_by(Some(&there)), wanted, "{new:?}");
        }
    }

    #[test]
    fn that_nobody_holds_the_lease_is_said_of_the_last_reign_that_the_store_knows() {
        let there = record(7, 90, "a");
        let ended = |reign: u64, revision: u64| {
            let mut seen = view(0, revision, None, Vec::new());
            seen.baton.last_reign = (reign > 0).then_some(Epoch(reign));
            Record::of(&seen, None, "me")
        };
        assert_eq!(ended(7, 92).judged_by(Some(&there)), Judgement::Write);
        assert_eq!(ended(7, 88).judged_by(Some(&there)), Judgement::Older);
        assert_eq!(ended(7, 93).judged_by(Some(&ended(7, 92))), Judgement::Same);
        // Revisions of a store that the cluster has left say nothing about the one that it has now.
        assert_eq!(ended(6, 5_000_000).judged_by(Some(&there)), Judgement::Older);
        assert_eq!(ended(0, 5_000_000).judged_by(Some(&there)), Judgement::Older);
        let seen = Record::of(&view(0, 92, None, Vec::new()), Some(Epoch(9)), "me");
        assert_eq!(seen.epoch, Some(Epoch(9)), "what was seen is not forgotten");
    }

    #[test]
    fn only_a_known_and_different_identifier_is_another_cluster() {
        let of = |system_id: Option<&str>| Record { system_id: system_id.map(str::to_owned), ..record(7, 90, "a") };
        assert!(of(Some("1")).is_of_another_than(&of(Some("2"))));
        for (one, other) in [(Some("1"), Some("1")), (Some("1"), None), (None, Some("1")), (None, None)] {
            assert!(!of(one).is_of_another_than(&of(other)), "{one:?} {other:?}");
        }
    }
}
