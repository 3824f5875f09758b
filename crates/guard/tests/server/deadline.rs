//! The deadline on real servers: whatever else happens, no commit is possible later than deadline + K, and when the
//! agent is back in time, nothing happens at all.

use std::os::unix::fs::chown;
use std::time::Duration;

use crate::deaths::begin_committing;
use crate::host::{Host, K, Pids, SECOND, await_that, send, send_if_there};
use crate::writer::Writer;
use pgbaton_sys::Signal;
use pgbaton_sys::child::Credentials;
use pgbaton_sys::clock::boottime;
use pgbaton_sys::proctree::with_working_directory;

/// A lease that is short, but long enough to do something under it; nanoseconds.
const LEASE: u64 = 3 * SECOND;

/// Gives the lease a deadline that comes soon, as another lease's, since within an epoch it cannot move back.
fn shorten(host: &Host) -> u64 {
    let deadline = boottime() + LEASE;
    host.must(&format!("extend 3 {deadline}"));
    deadline
}

/// A primary with a writer, under a lease that ends soon.
fn begin_under_short_lease(host: &Host) -> (Writer, Pids, u64) {
    host.start_primary(1, 50 * SECOND);
    let writer = Writer::begin(host);
    // So that something was written under any lease, however slow the machine is.
    writer.await_commit();
    let pids = host.pids();
    (writer, pids, shorten(host))
}

/// Waits for the deadline's effect and judges it: writes went on before, none was asked for and acknowledged after it,
/// and every acknowledged row is there when the server runs again.
fn judge(host: &Host, writer: Writer, deadline: u64) {
    let sent = writer.await_failure();
    host.await_no_server();
    assert!(!sent.is_empty());
    let late = sent.iter().filter(|sent| **sent > deadline + K).count();
    assert_eq!(late, 0, "of {} commits", sent.len());
    let acknowledged = i64::try_from(sent.len()).unwrap();
    let rows = host.read_after_restart(10, "select count(*) from w");
    // One more may have been committed and not acknowledged.
    assert!(rows == acknowledged || rows == acknowledged + 1, "{rows} rows, {acknowledged} acknowledged");
}

#[test]
fn a_frozen_agent_does_not_keep_the_server() {
    let host = Host::begin();
    let (writer, before, deadline) = begin_under_short_lease(&host);
    send(before.agent, Signal::STOP);
    writer.await_commit_until(deadline);
    host.await_no_server();
    send(before.agent, Signal::CONT);
    host.await_empty();
    let status = host.must("status");
    assert!(status.contains("enforced: true"), "{status}");
    assert_eq!((host.pids().agent, host.pids().inner), (before.agent, before.inner));
    judge(&host, writer, deadline);
}

#[test]
fn an_agent_that_is_back_in_time_finds_everything_as_it_was() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    let writer = Writer::begin(&host);
    let before = host.pids();
    send(before.agent, Signal::STOP);
    writer.await_commit();
    send(before.agent, Signal::CONT);
    host.must(&format!("extend 2 {}", boottime() + 55 * SECOND));
    writer.await_commit();
    assert_eq!(host.pids(), before);
    assert!(writer.running());
    assert!(host.must("status").contains("last_exit: None"));
    assert!(writer.stop() > 0);
}

#[test]
fn renewals_move_the_deadline() {
    let host = Host::begin();
    let (writer, before, first) = begin_under_short_lease(&host);
    host.must(&format!("extend 3 {}", first + 40 * SECOND));
    await_that("the first deadline having passed", boottime, |now| *now > first + K);
    writer.await_commit();
    assert_eq!(host.pids(), before);
    writer.stop();
}

#[test]
fn a_frozen_inner_guard_is_replaced_at_the_deadline() {
    let host = Host::begin();
    let (writer, before, deadline) = begin_under_short_lease(&host);
    send(before.inner, Signal::STOP);
    writer.await_commit_until(deadline);
    let after = host.next_pids(before);
    assert_ne!(after.inner, before.inner);
    assert_eq!((after.outer, after.postmaster), (before.outer, 0));
    judge(&host, writer, deadline);
}

#[test]
fn an_inner_guard_and_an_agent_frozen_together_do_not_keep_the_server() {
    let host = Host::begin();
    let (writer, before, deadline) = begin_under_short_lease(&host);
    send(before.agent, Signal::STOP);
    send(before.inner, Signal::STOP);
    writer.await_commit_until(deadline);
    host.next_pids(before);
    judge(&host, writer, deadline);
}

#[test]
fn a_frozen_outer_guard_changes_nothing() {
    let host = Host::begin();
    let (writer, before, deadline) = begin_under_short_lease(&host);
    send(before.outer, Signal::STOP);
    writer.await_commit_until(deadline);
    host.await_no_server();
    send(before.outer, Signal::CONT);
    assert_eq!(host.pids().inner, before.inner);
    judge(&host, writer, deadline);
}

#[test]
fn a_server_busy_in_long_queries_is_killed() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    let queries = ["select pg_sleep(600)", "select count(*) from generate_series(1, 100000000000)"].map(|query| {
        let mut client = host.connect().unwrap();
        std::thread::spawn(move || client.batch_execute(query).is_err())
    });
    let writer = Writer::begin(&host);
    writer.await_commit();
    let deadline = shorten(&host);
    writer.await_commit_until(deadline);
    judge(&host, writer, deadline);
    assert!(queries.map(|query| query.join().unwrap()).iter().all(|failed| *failed));
}

#[test]
fn a_procedure_that_commits_without_a_client_does_not_outlive_the_deadline() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let (before, deadline) = (host.pids(), shorten(&host));
    // The slowest way: the outer guard has to do it, with its grace.
    send(before.agent, Signal::STOP);
    send(before.inner, Signal::STOP);
    host.next_pids(before);
    host.await_no_server();
    // The rows tell when they were made, by the clock of the day.
    let now = (std::time::UNIX_EPOCH.elapsed().unwrap(), Duration::from_nanos(boottime()));
    let limit = (now.0 + Duration::from_nanos(deadline + K)).checked_sub(now.1).unwrap().as_micros();
    let late = format!("select count(*) from p where at > 'epoch'::timestamptz + interval '{limit} microseconds'");
    assert_eq!(host.read_after_restart(10, &late), 0);
    let rows: i64 = host.connect().unwrap().query_one("select count(*) from p", &[]).unwrap().get(0);
    assert!(rows > 10);
}

#[test]
fn stopped_backends_are_killed() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    let writer = Writer::begin(&host);
    // Afterwards it has prepared its statement, and bears the loss of its server.
    writer.await_commit();
    let mut stopped = host.connect().unwrap();
    let pid: i32 = stopped.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    send(pid, Signal::STOP);
    let postmaster = host.pids().postmaster;
    for pid in with_working_directory(&host.data()).unwrap() {
        // A process of the server may end between these looks at it.
        let Some(stat) = pgbaton_sys::proctree::stat(pid).unwrap() else { continue };
        if stat.parent == postmaster && pid.as_raw_nonzero().get() % 2 == 0 {
            send_if_there(pid, Signal::STOP);
        }
    }
    // The writer's backend may be among the stopped; then it has nothing to say but that it is gone.
    let deadline = shorten(&host);
    host.await_no_server();
    let sent = writer.await_failure();
    assert!(sent.iter().all(|sent| *sent <= deadline + K));
    assert!(host.read_after_restart(10, "select count(*) from w") >= i64::try_from(sent.len()).unwrap());
}

#[test]
fn two_hundred_and_fifty_backends_are_killed() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    let sessions: Vec<_> = (0..250).map(|_| host.connect().unwrap()).collect();
    let writer = Writer::begin(&host);
    writer.await_commit();
    let deadline = shorten(&host);
    writer.await_commit_until(deadline);
    judge(&host, writer, deadline);
    assert!(sessions.into_iter().all(|mut session| session.simple_query("select 1").is_err()));
}

/// A cgroup handed to user `postgres`, as `Delegate=yes` of systemd does it; removed when dropped.
struct Delegated(std::path::PathBuf);

impl Delegated {
    /// None where this user cannot make one.
    fn make() -> Option<Self> {
        let path = pgbaton_sys::cgroup::own_directory().ok()?.join(format!("pgbaton-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let delegated = Self(path);
        let user = Credentials::of_user("postgres").unwrap().expect("user postgres");
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(delegated.0.join(file), Some(user.uid), Some(user.gid)).unwrap();
        }
        Some(delegated)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
            std::fs::remove_dir(entry.path()).unwrap();
        }
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn a_delegated_cgroup_is_used_and_its_lack_is_told() {
    let delegated = Delegated::make();
    let mut host = match &delegated {
        Some(delegated) => {
            let procs = std::fs::File::options().write(true).open(delegated.0.join("cgroup.procs")).unwrap();
            Host::begin_in_cgroup(procs.into())
        }
        None => Host::begin(),
    };
    host.start_primary(1, 50 * SECOND);
    let writer = Writer::begin(&host);
    writer.await_commit();
    let before = host.pids();
    let status = host.must("status");
    assert!(status.contains(&format!("cgroup: {}", delegated.is_some())), "{status}");
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", before.postmaster)).unwrap();
    let leaf = format!("/pgbaton-{}\n", before.outer);
    assert_eq!(cgroup.contains(&leaf), delegated.is_some(), "{cgroup}");
    // Only now, since a server that is gone cannot be looked at.
    let deadline = shorten(&host);
    writer.await_commit_until(deadline);
    judge(&host, writer, deadline);
    assert!(!host.log().contains("cannot kill by cgroup"), "{}", host.log());
    assert_eq!(host.end(), Some(0));
}
