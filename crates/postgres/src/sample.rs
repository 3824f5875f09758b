//! What the server says about itself, in one round trip.

use std::net::IpAddr;
use std::str::FromStr;

use pgbaton_types::{Lsn, SystemId, TimelineId};
use tokio_postgres::SimpleQueryRow;

use crate::sql::{LocalClient, SqlError};

/// Four statements in one message: the server, its receiver, its standbys, its slots. Functions that only a primary
/// or only a standby allows stand behind a CASE.
const SAMPLE: &str = "\
SELECT pg_is_in_recovery() AS in_recovery, current_setting('server_version_num') AS version,
  to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00' AS started,
  CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END AS timeline,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END AS written,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS flushed,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END AS received,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END AS replayed,
  CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS paused,
  extract(epoch FROM pg_last_xact_replay_timestamp()) AS replayed_at,
  (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint_timeline,
  (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline,
  (SELECT system_identifier FROM pg_control_system()) AS system_id;
SELECT pid, status, received_tli, latest_end_lsn, sender_host, sender_port
  FROM pg_stat_get_wal_receiver() WHERE pid IS NOT NULL;
SELECT application_name, state, sync_state, host(client_addr) AS client_addr, sent_lsn, flush_lsn, replay_lsn
  FROM pg_stat_replication ORDER BY application_name, pid;
SELECT slot_name, slot_type, active, restart_lsn, wal_status FROM pg_replication_slots ORDER BY slot_name";

/// One look at a running server.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The database cluster.
    pub system_id: SystemId,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    /// When the postmaster started, as `2026-11-21 01:40:48.123456+00:00`: another one means another server.
    pub postmaster_started: String,
    /// Primary or standby, with its positions.
    pub role: SampledRole,
    /// The servers that stream from this one.
    pub replication: Vec<ReplicationRow>,
    /// The replication slots here.
    pub slots: Vec<SlotRow>,
}

/// What a server is, by `pg_is_in_recovery()`.
#[derive(Debug, Clone, PartialEq)]
pub enum SampledRole {
    /// It takes writes.
    Primary {
        /// The timeline that it writes.
        timeline: TimelineId,
        /// Written to the operating system up to here.
        written: Lsn,
        /// On disk up to here.
        flushed: Lsn,
    },
    /// It replays.
    Standby {
        /// The latest timeline that is known: the receiver's, else the control file's.
        timeline: TimelineId,
        /// Received by streaming and on disk up to here; none before the first time since the start.
        received: Option<Lsn>,
        /// Replayed up to here.
        replayed: Lsn,
        /// Whether replay is paused.
        replay_paused: bool,
        /// Commit time of the last transaction replayed, in seconds since 1970; none before the first.
        replayed_at: Option<f64>,
        /// The process that receives WAL, if there is one.
        receiver: Option<Receiver>,
    },
}

/// The WAL receiver (PostgreSQL documentation, `pg_stat_wal_receiver`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Its process.
    pub pid: i32,
    /// `starting`, `streaming`, `waiting`, `restarting`, `stopping`.
    pub status: String,
    /// The timeline that it receives.
    pub timeline: Option<TimelineId>,
    /// The end of the sender's WAL at its last report.
    pub latest_end: Option<Lsn>,
    /// The sender's host: a name, an address or a socket directory, as it was configured.
    pub sender_host: Option<String>,
    /// The sender's port.
    pub sender_port: Option<u16>,
}

/// A server that streams from this one (`pg_stat_replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationRow {
    /// The standby's name.
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: String,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: String,
    /// Where it connects from; none for a socket.
    pub client_address: Option<IpAddr>,
    /// Sent up to here.
    pub sent: Option<Lsn>,
    /// On the standby's disk up to here.
    pub flushed: Option<Lsn>,
    /// Replayed by the standby up to here.
    pub replayed: Option<Lsn>,
}

/// A replication slot (`pg_replication_slots`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    /// Its name.
    pub name: String,
    /// Whether it is physical; else logical.
    pub physical: bool,
    /// Whether somebody streams by it.
    pub active: bool,
    /// WAL is kept from here on; none when it never was used and reserved nothing.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`; none when nothing is reserved.
    pub wal_status: Option<String>,
}

impl Sample {
    /// Whether the server is a standby.
    pub fn in_recovery(&self) -> bool {
        matches!(self.role, SampledRole::Standby { .. })
    }

    /// The timeline that the server is on.
    pub fn timeline(&self) -> TimelineId {
        match self.role {
            SampledRole::Primary { timeline, .. } | SampledRole::Standby { timeline, .. } => timeline,
        }
    }

    /// The position that counts in an election: on a primary what is on disk; on a standby the larger of what is
    /// received and on disk, and what is replayed, because after a restart without an upstream the received position
    /// begins again at a segment's start.
    pub fn position(&self) -> Lsn {
        match self.role {
            SampledRole::Primary { flushed, .. } => flushed,
            SampledRole::Standby { received, replayed, .. } => received.map_or(replayed, |lsn| lsn.max(replayed)),
        }
    }

    /// The receiver of a standby.
    pub fn receiver(&self) -> Option<&Receiver> {
        match &self.role {
            SampledRole::Standby { receiver, .. } => receiver.as_ref(),
            SampledRole::Primary { .. } => None,
        }
    }
}

impl Receiver {
    /// Whether WAL comes in.
    pub fn is_streaming(&self) -> bool {
        self.status == "streaming"
    }
}

impl LocalClient {
    /// Looks at the server on the kept connection.
    pub async fn sample(&mut self) -> Result<Sample, SqlError> {
        let results = self.query(SAMPLE).await?;
        let [server, receiver, replication, slots] = results.as_slice() else {
            return Err(unexpected(format!("{} results", results.len())));
        };
        let server = Row(server.first().ok_or_else(|| unexpected("no row".to_owned()))?);
        let receiver = receiver.first().map(|row| Receiver::read(Row(row))).transpose()?;
        Ok(Sample {
            system_id: server.required("system_id")?,
            version: server.required("version")?,
            postmaster_started: server.required("started")?,
            role: SampledRole::read(server, receiver)?,
            replication: replication.iter().map(|row| ReplicationRow::read(Row(row))).collect::<Result<_, _>>()?,
            slots: slots.iter().map(|row| SlotRow::read(Row(row))).collect::<Result<_, _>>()?,
        })
    }

    /// The settings that wait for a restart. Reads all settings, some milliseconds: to be asked after a reload, not
    /// at each look.
    pub async fn pending_restart(&mut self) -> Result<Vec<String>, SqlError> {
        let sql = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name";
        let results = self.query(sql).await?;
        results.first().into_iter().flatten().map(|row| Row(row).required("name")).collect()
    }

    /// Whether the server has read its configuration files at this time, in seconds since 1970, or later: a reload takes a moment, and
    /// before it nothing waits for a restart.
    pub async fn has_loaded_since(&mut self, seconds: f64) -> Result<bool, SqlError> {
        let sql = format!("SELECT extract(epoch FROM pg_conf_load_time()) >= {seconds}");
        Ok(self.value(&sql).await?.as_deref() == Some("t"))
    }

    /// Whether the server is in recovery.
    pub async fn in_recovery(&mut self) -> Result<bool, SqlError> {
        Ok(self.value("SELECT pg_is_in_recovery()").await?.as_deref() == Some("t"))
    }

    /// Writes a checkpoint, so that the control file names the timeline of a fresh promotion, which `pg_rewind` reads.
    pub async fn checkpoint(&mut self, within: std::time::Duration) -> Result<(), SqlError> {
        self.execute_within("CHECKPOINT", within).await
    }
}

impl SampledRole {
    fn read(server: Row<'_>, receiver: Option<Receiver>) -> Result<Self, SqlError> {
        if !server.flag("in_recovery") {
            let digits: String = server.required("timeline")?;
            let number = u32::from_str_radix(&digits, 16).map_err(|error| unexpected(error.to_string()))?;
            return Ok(Self::Primary {
                timeline: TimelineId(number),
                written: server.required("written")?,
                flushed: server.required("flushed")?,
            });
        }
        let checkpoint: u32 = server.required("checkpoint_timeline")?;
        let recovery: u32 = server.optional("recovery_timeline")?.unwrap_or(0);
        let receiving = receiver.as_ref().and_then(|receiver| receiver.timeline).map_or(0, |timeline| timeline.0);
        Ok(Self::Standby {
            timeline: TimelineId(checkpoint.max(recovery).max(receiving)),
            received: server.optional("received")?,
            replayed: server.optional("replayed")?.unwrap_or(Lsn::INVALID),
            replay_paused: server.flag("paused"),
            replayed_at: server.optional("replayed_at")?,
            receiver,
        })
    }
}

impl Receiver {
    fn read(row: Row<'_>) -> Result<Self, SqlError> {
        Ok(Self {
            pid: row.required("pid")?,
            status: row.optional("status")?.unwrap_or_default(),
            timeline: row.optional("received_tli")?.filter(|number| *number != 0).map(TimelineId),
            latest_end: row.optional("latest_end_lsn")?,
            sender_host: row.optional("sender_host")?,
            sender_port: row.optional("sender_port")?,
        })
    }
}

impl ReplicationRow {
    fn read(row: Row<'_>) -> Result<Self, SqlError> {
        Ok(Self {
            application_name: row.required("application_name")?,
            state: row.optional("state")?.unwrap_or_default(),
            sync_state: row.optional("sync_state")?.unwrap_or_default(),
            client_address: row.optional("client_addr")?,
            sent: row.optional("sent_lsn")?,
            flushed: row.optional("flush_lsn")?,
            replayed: row.optional("replay_lsn")?,
        })
    }
}

impl SlotRow {
    fn read(row: Row<'_>) -> Result<Self, SqlError> {
        let kind: String = row.required("slot_type")?;
        Ok(Self {
            name: row.required("slot_name")?,
            physical: kind == "physical",
            active: row.flag("active"),
            restart: row.optional("restart_lsn")?,
            wal_status: row.optional("wal_status")?,
        })
    }
}

/// A row whose columns are read by name.
#[derive(Clone, Copy)]
struct Row<'a>(&'a SimpleQueryRow);

impl Row<'_> {
    fn optional<T: FromStr>(self, column: &str) -> Result<Option<T>, SqlError> {
        let text = self.0.try_get(column).map_err(|error| unexpected(error.to_string()))?;
        let parse = |text: &str| text.parse().map_err(|_| unexpected(format!("{column} is {text:?}")));
        text.map(parse).transpose()
    }

    fn required<T: FromStr>(self, column: &str) -> Result<T, SqlError> {
        self.optional(column)?.ok_or_else(|| unexpected(format!("{column} is null")))
    }

    fn flag(self, column: &str) -> bool {
        matches!(self.0.try_get(column), Ok(Some("t")))
    }
}

fn unexpected(what: String) -> SqlError {
    SqlError::Answer { sql: "the server's state".to_owned(), what }
}
