use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// The time after which the Raft leader sends the next heartbeat, in milliseconds. It sets [`TICK_MS`], and with it most of what
/// an idle member costs: with 100 ms, Raft alone took over half a percent of a core.
const HEARTBEAT_MS: u64 = 340;

/// How often each voter looks at Raft's timers, in milliseconds: openraft fixes it in relation to the heartbeat
/// (`Config::heartbeat_interval`). A heartbeat and an election begin at the first look after their time. Each look costs two
/// wake-ups, as tokio sorts timers into blocks of 64 ms and wakes at their borders.
const TICK_MS: u64 = HEARTBEAT_MS * 13 / 64;

/// The shortest and the longest time after the end of the last leader's lease at which a voter stands for election, in
/// milliseconds. openraft's leader lease is as long as the longest, and begins at each heartbeat: a lost leader costs one and a
/// half seconds at most, if no election is split.
const ELECTION_MS: (u64, u64) = (500, 750);

/// The pause before each message to a voter that could not be reached, always the same: one that is back has to hear what it missed
/// before it can lead, and the arithmetic below counts on it. openraft's own pauses grow to a second.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(RECONNECT_PAUSE_MS);
const RECONNECT_PAUSE_MS: u64 = 200;

/// Connecting again to a peer whose connection broke, in milliseconds: the pause and the handshake.
const RECONNECT_MS: u64 = RECONNECT_PAUSE_MS + 100;

/// The shortest lease that the agents use, in milliseconds.
const SHORTEST_LEASE_MS: u64 = 5_000;

// Two elections (the first may end in a split vote), each after the old leader's lease, with connecting again, leave half a
// second of the shortest lease for the renewal itself: a change of the Raft leader must not cost the baton.
const _: () = assert!(2 * (ELECTION_MS.1 + ELECTION_MS.1 + TICK_MS + RECONNECT_MS) + 500 <= SHORTEST_LEASE_MS * 9 / 10);
const _: () = assert!(
    3 * (HEARTBEAT_MS + TICK_MS) < ELECTION_MS.1 + ELECTION_MS.0,
    "two lost heartbeats are no reason for an election"
);

/// What a disk may take for one write without keeping the voters from electing: a candidate writes its own vote, then the others
/// theirs, and openraft waits for all of that no longer than the shortest time of [`ELECTION_MS`].
pub(crate) const VOTE_WITHIN: Duration = Duration::from_millis(ELECTION_MS.0 / 2);

/// A write of the log that takes longer than this makes the leader hand over to a voter that has written the same already: its disk
/// would slow every change down.
pub(crate) const SLOW_FLUSH: Duration = Duration::from_secs(1);

/// After this it stops leading by stopping Raft, if one of the others has written it and nobody took over; and from then on it renews
/// no lease, so that living timers do not hide a dead disk.
pub(crate) const STUCK_FLUSH: Duration = Duration::from_secs(5);

/// How many entries after a snapshot the next one is made. While it is written, nothing else is: in a busy store that is to happen
/// every few seconds at the most. Each entry costs some 64 bytes of memory until then, and a restart reads them all.
const SNAPSHOT_EVERY: u64 = 20_000;

/// How many entries before a snapshot are kept, for followers that are a little behind.
const KEPT_ENTRIES: u64 = 500;

/// The most entries in one message.
const ENTRIES_PER_MESSAGE_MAX: u64 = 64;

/// openraft's settings.
pub(crate) fn raft_config() -> Config {
    Config {
        cluster_name: "pgbaton".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        install_snapshot_timeout: 5_000,
        max_payload_entries: ENTRIES_PER_MESSAGE_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        // Memory: these queues are allocated in blocks as they fill, but a limit belongs to each.
        api_channel_size: Some(1_024),
        notification_channel_size: Some(1_024),
        state_machine_channel_size: Some(64),
        // An isolated voter must not drive its term up and depose a healthy leader when it is back.
        enable_pre_vote: Some(true),
        // What was applied is in memory only, and which entries are committed is not written down: a leader that led on after a
        // restart would answer from a state that it had yet to apply again.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
