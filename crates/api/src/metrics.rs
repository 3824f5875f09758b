use std::fmt::Write;

use jiff::Timestamp;
use pgbaton_types::Lsn;

use crate::INTERFACE_VERSION;
use crate::state::{PostgresState, Role};

/// What `GET /metrics` tells, at one moment.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The cluster; a label of every sample.
    pub scope: String,
    /// The member; a label of every sample.
    pub name: String,
    /// The state; none for unknown.
    pub state: Option<PostgresState>,
    /// The role.
    pub role: Role,
    /// When the postmaster started.
    pub postmaster_start_time: Option<Timestamp>,
    /// The flush position of a primary; zero otherwise.
    pub location: Lsn,
    /// How far a standby has received; zero otherwise.
    pub received: Lsn,
    /// How far a standby has replayed; zero otherwise.
    pub replayed: Lsn,
    /// The time of the last transaction replayed.
    pub replayed_timestamp: Option<Timestamp>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// The replication state of a standby.
    pub replication_state: Option<String>,
    /// `server_version_num`, if the server answered.
    pub server_version: Option<u32>,
    /// No leader is known.
    pub cluster_unlocked: bool,
    /// The timeline; zero if unknown.
    pub timeline: u32,
    /// When the store was read last, in whole seconds since 1970; zero if never.
    pub dcs_last_seen: i64,
    /// A parameter waits for a restart.
    pub pending_restart: bool,
    /// Maintenance mode.
    pub paused: bool,
    /// The tag; zero when the member never leads.
    pub failover_priority: i64,
}

impl Metrics {
    /// The metrics as text for Prometheus, with a newline at the end.
    pub fn encode(&self) -> String {
        let mut text = Text::new(&self.scope, &self.name);
        self.encode_server(&mut text);
        self.encode_positions(&mut text);
        self.encode_cluster(&mut text);
        text.out
    }

    fn encode_server(&self, text: &mut Text) {
        let running = self.state == Some(PostgresState::Running);
        let parts: Vec<String> = INTERFACE_VERSION.split('.').map(|part| format!("{part:0>2}")).collect();
        let version = parts.concat();
        text.gauge("patroni_version", "Version of the interface, two digits for each part.", version);
        text.gauge("patroni_postgres_running", "1 if the server runs, else 0.", u8::from(running));
        let help = "When the postmaster started, in seconds since 1970.";
        text.gauge("patroni_postmaster_start_time", help, seconds(self.postmaster_start_time));
        text.gauge("patroni_primary", "1 if this member is the primary, else 0.", self.is_role(Role::Primary));
    }

    fn encode_positions(&self, text: &mut Text) {
        text.counter("patroni_xlog_location", "Flush position of a primary, else 0.", self.location.0);
        let help = "1 if this member leads a standby cluster, else 0.";
        text.gauge("patroni_standby_leader", help, self.is_role(Role::StandbyLeader));
        text.gauge("patroni_replica", "1 if this member is a standby, else 0.", self.is_role(Role::Replica));
        text.gauge("patroni_sync_standby", "1 if this member is a synchronous standby, else 0.", 0);
        text.gauge("patroni_quorum_standby", "1 if this member is in the quorum of standbys, else 0.", 0);
        text.counter(
            "patroni_xlog_received_location",
            "Position that a standby has received, else 0.",
            self.received.0,
        );
        text.counter(
            "patroni_xlog_replayed_location",
            "Position that a standby has replayed, else 0.",
            self.replayed.0,
        );
        let help = "Time of the last transaction that a standby replayed, in seconds since 1970.";
        text.gauge("patroni_xlog_replayed_timestamp", help, seconds(self.replayed_timestamp));
        text.gauge("patroni_xlog_paused", "1 if replay is paused, else 0.", u8::from(self.replay_paused));
        if self.server_version.is_some() {
            let is = |state: &str| u8::from(self.replication_state.as_deref() == Some(state));
            text.gauge("patroni_postgres_streaming", "1 if a standby streams, else 0.", is("streaming"));
            let help = "1 if a standby reads from the archive, else 0.";
            text.gauge("patroni_postgres_in_archive_recovery", help, is("in archive recovery"));
        }
    }

    fn encode_cluster(&self, text: &mut Text) {
        let version = self.server_version.unwrap_or(0);
        text.gauge("patroni_postgres_server_version", "server_version_num, 0 if unknown.", version);
        let unlocked = u8::from(self.cluster_unlocked);
        text.gauge("patroni_cluster_unlocked", "1 if no leader is known, else 0.", unlocked);
        text.gauge("patroni_failsafe_mode_is_active", "1 if failsafe mode is active, else 0.", 0);
        text.gauge("patroni_failsafe_mode_enabled", "1 if failsafe mode is configured, else 0.", 0);
        text.gauge("patroni_failsafe_member", "1 if this member takes part in failsafe mode, else 0.", 0);
        text.gauge("patroni_postgres_timeline", "Timeline of the server, 0 if unknown.", self.timeline);
        let help = "When the store was read last, in seconds since 1970.";
        text.gauge("patroni_dcs_last_seen", help, self.dcs_last_seen);
        let pending = u8::from(self.pending_restart);
        text.gauge("patroni_pending_restart", "1 if a parameter waits for a restart, else 0.", pending);
        text.gauge("patroni_is_paused", "1 in maintenance mode, else 0.", u8::from(self.paused));
        let state = self.state.map_or_else(|| "-1".to_owned(), |state| state.index().to_string());
        let help = "Index of the server's state, -1 if unknown.";
        text.head("patroni_postgres_state", help, "gauge");
        text.comment(&format!("States: {}", PostgresState::legend()));
        text.sample("patroni_postgres_state", state);
        let help = "The tag failover_priority, 0 if the member never leads.";
        text.gauge("patroni_failover_priority", help, self.failover_priority);
    }

    fn is_role(&self, role: Role) -> u8 {
        u8::from(self.role == role)
    }
}

fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_microsecond() as f64 / 1e6)
}

struct Text {
    out: String,
    labels: String,
}

impl Text {
    fn new(scope: &str, name: &str) -> Self {
        let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escaped(scope), escaped(name));
        Self { out: String::new(), labels }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, help, "gauge");
        self.sample(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, help, "counter");
        self.sample(name, value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn comment(&mut self, text: &str) {
        self.line(format_args!("# {text}"));
    }

    fn sample(&mut self, name: &str, value: impl std::fmt::Display) {
        let labels = std::mem::take(&mut self.labels);
        self.line(format_args!("{name}{labels} {value}"));
        self.labels = labels;
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect("a string takes any text");
    }
}

/// A label's value (Prometheus documentation, "Text format details").
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn metrics() -> Metrics {
        Metrics {
            scope: "de\"mo".to_owned(),
            name: "a".to_owned(),
            state: Some(PostgresState::Running),
            role: Role::Replica,
            postmaster_start_time: "2026-11-20T09:16:05.5Z".parse().ok(),
            location: Lsn(0),
            received: Lsn(50_331_968),
            replayed: Lsn(50_331_900),
            replayed_timestamp: None,
            replay_paused: true,
            replication_state: Some("streaming".to_owned()),
            server_version: Some(150_018),
            cluster_unlocked: false,
            timeline: 3,
            dcs_last_seen: 7,
            pending_restart: false,
            paused: true,
            failover_priority: 1,
        }
    }

    #[test]
    fn every_sample_has_its_head_and_labels() {
        let text = metrics().encode();
        assert!(text.ends_with('\n'));
        let heads: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!((heads.len(), samples.len()), (26, 26), "{text}");
        for sample in &samples {
            let (name, rest) = sample.split_once('{').unwrap();
            assert!(heads.contains(name), "{sample}");
            assert!(rest.starts_with("scope=\"de\\\"mo\",name=\"a\"} "), "{sample}");
        }
        for sample in [
            "patroni_version{scope=\"de\\\"mo\",name=\"a\"} 040104",
            "patroni_postmaster_start_time{scope=\"de\\\"mo\",name=\"a\"} 1795166165.5",
            "patroni_xlog_received_location{scope=\"de\\\"mo\",name=\"a\"} 50331968",
            "patroni_postgres_state{scope=\"de\\\"mo\",name=\"a\"} 5",
            "patroni_replica{scope=\"de\\\"mo\",name=\"a\"} 1",
        ] {
            assert!(samples.contains(&sample), "{sample} is not in\n{text}");
        }
        let counters: Vec<&str> =
            text.lines().filter_map(|l| l.strip_suffix(" counter")?.strip_prefix("# TYPE ")).collect();
        let expected = ["patroni_xlog_location", "patroni_xlog_received_location", "patroni_xlog_replayed_location"];
        assert_eq!(counters, expected);
        assert!(text.contains("# States: 0=initdb, 1=initdb_failed"), "{text}");
    }

    #[test]
    fn a_server_that_does_not_answer_has_fewer_samples() {
        let text = Metrics { server_version: None, state: None, ..metrics() }.encode();
        assert!(!text.contains("patroni_postgres_streaming"), "{text}");
        assert!(text.contains("patroni_postgres_state{scope=\"de\\\"mo\",name=\"a\"} -1"), "{text}");
    }
}
