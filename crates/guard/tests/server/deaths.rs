//! Every process of a guarded host killed in turn, with real servers.

use std::os::unix::fs::MetadataExt as _;

use crate::host::{Host, SECOND, await_end, await_that, send};
use crate::writer::Writer;
use pgbaton_sys::Signal;
use pgbaton_sys::proctree::with_working_directory;

/// A session that commits for ever without asking its client for anything. Returns once its first commits are visible.
pub(crate) fn begin_committing(host: &Host) {
    let mut client = host.connect().unwrap();
    client
        .batch_execute(
            "create table if not exists p (n bigserial, at timestamptz default clock_timestamp());
             create or replace procedure commit_for_ever() language plpgsql as
             $$ begin loop insert into p default values; commit; end loop; end $$",
        )
        .unwrap();
    std::thread::spawn(move || client.batch_execute("call commit_for_ever()").is_err());
    let mut watcher = host.connect().unwrap();
    await_that(
        "the procedure's commits",
        || watcher.query_one("select count(*) from p", &[]).unwrap().get::<_, i64>(0),
        |rows| *rows > 10,
    );
}

/// No process is left, and none writes: what was counted stays.
fn assert_nothing_goes_on(host: &Host) {
    host.await_no_server();
    let rows = host.read_after_restart(10, "select count(*) from p");
    assert!(rows > 10);
    let again: i64 = host.connect().unwrap().query_one("select count(*) from p", &[]).unwrap().get(0);
    assert_eq!(again, rows);
}

/// Neither sees the other end: both stand still before the first is killed.
fn kill_together(pids: [i32; 2]) {
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in pids {
            send(pid, signal);
        }
    }
}

#[test]
fn an_agent_killed_costs_no_session() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    host.must("ready");
    let mut session = host.connect().unwrap();
    session.batch_execute("create temp table t as select 42 as n").unwrap();
    let writer = Writer::begin(&host);
    let mut before = host.pids();
    for _ in 0..3 {
        send(before.agent, Signal::KILL);
        let after = host.next_pids(before);
        assert_eq!((after.outer, after.inner, after.postmaster), (before.outer, before.inner, before.postmaster));
        before = after;
    }
    writer.await_commit();
    assert_eq!(session.query_one("select n from t", &[]).unwrap().get::<_, i32>(0), 42);
    // The new agent renews where the old one stopped.
    host.must(&format!("extend 2 {}", pgbaton_sys::clock::boottime() + 55 * SECOND));
    assert!(writer.running());
    writer.stop();
}

#[test]
fn an_agent_upgraded_in_place_costs_no_session() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    host.must("ready");
    let mut session = host.connect().unwrap();
    session.batch_execute("create temp table t as select 42 as n").unwrap();
    let writer = Writer::begin(&host);
    let before = host.pids();
    let program = |pid: i32| std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let old = program(before.agent);
    host.upgrade();
    send(before.agent, Signal::KILL);
    let after = host.next_pids(before);
    assert_eq!((after.outer, after.inner, after.postmaster), (before.outer, before.inner, before.postmaster));
    assert_ne!(program(after.agent), old, "the new executable runs");
    assert_eq!(program(after.inner), old);
    writer.await_commit();
    assert_eq!(session.query_one("select n from t", &[]).unwrap().get::<_, i32>(0), 42);
    host.must(&format!("extend 2 {}", pgbaton_sys::clock::boottime() + 55 * SECOND));
    assert!(writer.running());
    writer.stop();
}

#[test]
fn the_inner_guard_killed_takes_the_server_along_and_comes_back() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    send(before.inner, Signal::KILL);
    let after = host.next_pids(before);
    assert_eq!((after.outer, after.postmaster), (before.outer, 0));
    await_end("the old agent", before.agent);
    // The epoch outlives the guard that held it.
    assert!(host.tell(&format!("extend 1 {}", pgbaton_sys::clock::boottime() + SECOND)).is_err());
    assert_nothing_goes_on(&host);
}

#[test]
fn agent_and_inner_guard_killed_together() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    kill_together([before.agent, before.inner]);
    host.next_pids(before);
    assert_nothing_goes_on(&host);
}

#[test]
fn the_outer_guard_killed_takes_everything_along() {
    let mut host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    send(before.outer, Signal::KILL);
    host.exit_code();
    host.await_no_server();
    await_end("the inner guard", before.inner);
    await_end("the agent", before.agent);
}

#[test]
fn agent_and_outer_guard_killed_together() {
    let mut host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    kill_together([before.agent, before.outer]);
    host.exit_code();
    host.await_no_server();
    await_end("the inner guard", before.inner);
}

#[test]
fn both_guards_killed_at_once_leave_it_to_the_agent() {
    let mut host = Host::begin_with(&[("last-resort", "")]);
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    kill_together([before.outer, before.inner]);
    host.exit_code();
    host.await_no_server();
    await_end("the agent", before.agent);
}

#[test]
fn orphans_of_a_killed_postmaster_are_killed() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    send(before.postmaster, Signal::KILL);
    host.await_empty();
    assert_eq!(with_working_directory(&host.data()).unwrap(), []);
    // The lease still runs: the server starts again in place.
    host.must("start primary");
    host.await_server();
    let after = host.pids();
    assert_eq!((after.outer, after.inner, after.agent), (before.outer, before.inner, before.agent));
    assert_ne!(after.postmaster, before.postmaster);
    let count = || host.connect().unwrap().query_one("select count(*) from p", &[]).unwrap().get::<_, i64>(0);
    let rows = count();
    assert!(rows > 10);
    assert_eq!(count(), rows);
}

#[test]
fn an_agent_kills_a_guard_that_does_not_answer() {
    let host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    begin_committing(&host);
    let before = host.pids();
    send(before.inner, Signal::STOP);
    let silence = host.tell("ready").unwrap_err();
    assert!(silence.contains("did not answer"), "{silence}");
    // The answer may not come any more: this agent is killed too.
    drop(host.tell("kill-guard"));
    host.next_pids(before);
    assert_nothing_goes_on(&host);
}
