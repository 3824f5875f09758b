//! What the tests of clusters share, whatever the store.

use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, Options, Programs};
use pgbaton_testkit::writer::{Commit, Writer};
use pgbaton_testkit::{HostProgram, clock, wait};
use pgbaton_types::BootTime;

/// Longest wait for a state. Above everything that a busy machine makes of a failover, below a test's minute.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// What most tests want: three members with the store that this test binary is for.
pub(crate) fn options() -> Options {
    Options { store: crate::STORE, ..Options::default() }
}

/// A cluster whose members do not run yet.
pub(crate) fn prepared(options: Options) -> Cluster {
    let pgbaton = env!("CARGO_BIN_EXE_pgbaton");
    let programs = Programs { pgbaton: pgbaton.into(), host: HostProgram::at(pgbaton) };
    Cluster::new(&programs, options).unwrap()
}

/// Three members, one primary, two streaming.
pub(crate) fn healthy() -> Cluster {
    let mut cluster = prepared(options());
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

/// A writer that has committed something.
pub(crate) fn writing(cluster: &Cluster) -> Writer {
    let writer = cluster.writer().unwrap();
    commits(&writer, 50);
    writer
}

/// Waits for that many more commits.
pub(crate) fn commits(writer: &Writer, more: usize) {
    let wanted = writer.so_far().commits().len() + more;
    wait::until(&format!("{more} more commits"), LIMIT, || {
        let number = writer.so_far().commits().len();
        if number >= wanted { Ok(()) } else { Err(format!("{} to go", wanted - number)) }
    })
    .unwrap();
}

/// Waits for a commit that was begun after an instant.
pub(crate) fn commit_after(writer: &Writer, instant: BootTime) -> Commit {
    wait::until("a commit after the event", LIMIT, || {
        writer.commit_begun_after(instant).ok_or_else(|| format!("the last was {:?}", writer.last_commit()))
    })
    .unwrap()
}

/// Waits for a commit on another server than `old` that was begun after an instant.
pub(crate) fn commit_elsewhere(writer: &Writer, instant: BootTime, old: usize) -> Commit {
    wait::until("a commit on another server", LIMIT, || {
        let record = writer.so_far();
        let found = record.commits().iter().find(|commit| commit.begun > instant && commit.server != old);
        found.copied().ok_or_else(|| format!("the last was {:?}", record.commits().last()))
    })
    .unwrap()
}

/// No acknowledged row is missing on that server, and never did two servers take writes at once.
pub(crate) fn nothing_lost(cluster: &Cluster, writer: &Writer, primary: usize) {
    assert_eq!(
        writer.missing_on(cluster.servers()[primary]).unwrap(),
        Vec::<i64>::new(),
        "acknowledged rows are missing"
    );
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
}

/// The timeline that a primary writes.
pub(crate) fn timeline(cluster: &Cluster, primary: usize) -> u32 {
    // A standby refuses this. The first eight digits of a WAL file's name are its timeline.
    let name = value(cluster, primary, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    u32::from_str_radix(&name[..8], 16).unwrap()
}

/// A single value.
pub(crate) fn value(cluster: &Cluster, member: usize, statement: &str) -> String {
    cluster.sql(member, statement).unwrap()[0][0].clone().unwrap_or_default()
}

/// Waits until a question to a member's server has that answer.
pub(crate) fn wait_for_value(cluster: &Cluster, member: usize, statement: &str, wanted: &str) {
    cluster
        .awaiting(&format!("{wanted} as answer to `{statement}`"), LIMIT, || {
            let rows = cluster.sql(member, statement)?;
            let found = rows.first().and_then(|row| row.first()?.clone()).unwrap_or_default();
            Ok(if found == wanted { Ok(()) } else { Err(found) })
        })
        .unwrap();
}

/// The others of three.
pub(crate) fn others(member: usize) -> [usize; 2] {
    [(member + 1) % 3, (member + 2) % 3]
}

/// Waits until the same server has taken writes for that many seconds from now on: looks at commits, not at a clock.
pub(crate) fn writes_for(writer: &Writer, seconds: f64) {
    let until = clock::now() + Duration::from_secs_f64(seconds);
    let server = writer.last_commit().unwrap().server;
    assert_eq!(commit_after(writer, until).server, server);
}

/// Waits until the writer has lost a session with a server.
pub(crate) fn wait_for_ended_session(writer: &Writer, server: usize) {
    wait::until("the end of a session", LIMIT, || {
        let record = writer.so_far();
        let ended = record.refusals().keys().any(|(refusing, _)| *refusing == server);
        if ended { Ok(()) } else { Err("none".to_owned()) }
    })
    .unwrap();
}
