//! Members with real PostgreSQL, as an operator has them: formed, killed in parts and as a whole, switched over, paused.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, Options, Part, Programs};
use pgbaton_testkit::writer::FailureClass;
use pgbaton_testkit::{HostProgram, clock};
use rustix::process::Signal;

/// For a state that comes within seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(45);

fn cluster(members: u8) -> Cluster {
    let pgbaton = env!("CARGO_BIN_EXE_pgbaton");
    let programs = Programs { pgbaton: pgbaton.into(), host: HostProgram::at(pgbaton) };
    let options = Options {
        members,
        // A busy test machine may stand still for a second or two; what is tested is the order of things, not their speed.
        ttl: 8.0,
        retry_timeout: 3.0,
        ..Options::default()
    };
    let mut cluster = Cluster::new(&programs, options).unwrap();
    cluster.start_all().unwrap();
    cluster.wait_healthy(PATIENCE).unwrap();
    cluster
}

fn explained(cluster: &Cluster, member: usize, pointer: &str) -> serde_json::Value {
    let answer = cluster.rest(member, "GET", "/explain", "", Duration::from_secs(5)).unwrap();
    answer.json().pointer(pointer).cloned().unwrap_or_default()
}

#[test]
fn a_lost_member_is_replaced_and_comes_back_without_what_only_it_had() {
    let mut cluster = cluster(3);
    let old = cluster.wait_primary(PATIENCE).unwrap();
    cluster.sql(old, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").unwrap();
    for member in (0..3).filter(|member| *member != old) {
        cluster
            .awaiting("the row on every standby", PATIENCE, || {
                let rows = cluster.sql(member, "SELECT count(*) FROM kept")?;
                Ok(if format!("{rows:?}").contains('1') { Ok(()) } else { Err(format!("{rows:?}")) })
            })
            .unwrap();
    }
    // Nothing leaves the primary any more, so that this row is only there.
    cluster.freeze(old, Part::WalSenders).unwrap();
    cluster.sql(old, "INSERT INTO kept VALUES (2)").unwrap();
    cluster.kill_member(old).unwrap();

    let new = cluster.wait_primary(PATIENCE).unwrap();
    assert_ne!(new, old);
    cluster.sql(new, "INSERT INTO kept VALUES (3)").unwrap();
    cluster.start(old).unwrap();
    cluster.wait_healthy(PATIENCE).unwrap();
    cluster
        .awaiting("the new primary's rows on the member that came back", PATIENCE, || {
            let rows = format!("{:?}", cluster.sql(old, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM kept")?);
            Ok(if rows.contains("1 3") { Ok(()) } else { Err(rows) })
        })
        .unwrap();
    let log = std::fs::read_to_string(cluster.log_path(old)).unwrap();
    assert!(log.contains("done operation=rewind to"), "it came back by a rewind:\n{log}");
}

#[test]
fn a_switchover_loses_nothing_and_an_ending_agent_hands_over() {
    let mut cluster = cluster(3);
    let first = cluster.wait_primary(PATIENCE).unwrap();
    let writer = cluster.writer().unwrap();
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.wait_healthy(PATIENCE).unwrap();
    let second = cluster.wait_primary(PATIENCE).unwrap();
    assert_ne!(second, first);

    let code = cluster.stop_member(second, PATIENCE).unwrap();
    assert_eq!(code, 0, "an orderly end");
    let third = cluster.wait_primary(PATIENCE).unwrap();
    assert_ne!(third, second);
    let asked = clock::now();
    cluster
        .awaiting("a commit after the agent's end", PATIENCE, || {
            Ok(writer.commit_begun_after(asked).map(|_| ()).ok_or_else(|| "none yet".to_owned()))
        })
        .unwrap();
    let missing = writer.missing_on(cluster.servers()[third]).unwrap();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    writer.stop().unwrap();
    cluster.start(second).unwrap();
    cluster.wait_healthy(PATIENCE).unwrap();
}

#[test]
fn what_dies_on_the_primary_comes_back_in_place() {
    let cluster = cluster(2);
    let primary = cluster.wait_primary(PATIENCE).unwrap();
    let epoch = explained(&cluster, primary, "/epoch");
    let states = cluster.states().unwrap();

    let writer = cluster.writer().unwrap();
    let await_commit = || {
        let from = clock::now();
        let seen = || Ok(writer.commit_begun_after(from).map(|_| ()).ok_or_else(|| "none yet".to_owned()));
        cluster.awaiting("a commit", PATIENCE, seen).unwrap();
    };
    await_commit();
    let agents = cluster.pids(primary, Part::Agent).unwrap();
    cluster.signal(primary, Part::Agent, Signal::KILL).unwrap();
    cluster
        .awaiting("another agent that leads in the same reign", PATIENCE, || {
            let now = cluster.pids(primary, Part::Agent)?;
            let led = cluster.rest(primary, "GET", "/primary", "", Duration::from_secs(2))?.status == 200;
            Ok(if now != agents && led && !now.is_empty() { Ok(()) } else { Err(format!("{now:?} leads: {led}")) })
        })
        .unwrap();
    await_commit();
    // Looked at while it writes: its own end breaks its last statement off. Before its table is there, it says so.
    let record = writer.so_far();
    let noticed: Vec<_> =
        record.failures().iter().filter(|failure| failure.class == FailureClass::ConnectionLost).collect();
    assert!(noticed.is_empty(), "a session noticed: {noticed:?}");
    writer.stop().unwrap();
    assert_eq!(explained(&cluster, primary, "/epoch"), epoch);

    let postmaster = cluster.pids(primary, Part::Postmaster).unwrap();
    cluster.signal(primary, Part::Postmaster, Signal::KILL).unwrap();
    cluster
        .awaiting("another postmaster that takes writes", PATIENCE, || {
            let now = cluster.pids(primary, Part::Postmaster)?;
            let states = cluster.states()?;
            Ok(if now != postmaster && states[primary].is_primary() { Ok(()) } else { Err(format!("{states:?}")) })
        })
        .unwrap();
    assert_eq!(cluster.states().unwrap()[primary], states[primary], "on the same timeline");
    assert_eq!(explained(&cluster, primary, "/epoch"), epoch, "under the same lease");
    cluster.wait_healthy(PATIENCE).unwrap();
}

#[test]
fn a_pause_disarms_the_guard_and_its_end_arms_it() {
    let cluster = cluster(1);
    let armed = |wanted: bool| {
        cluster
            .awaiting(&format!("a guard that is armed: {wanted}"), PATIENCE, || {
                let seen = explained(&cluster, 0, "/lease/guard/armed");
                Ok(if seen == wanted { Ok(()) } else { Err(seen.to_string()) })
            })
            .unwrap();
    };
    armed(true);
    for (body, wanted) in [(r#"{"pause": true}"#, false), (r#"{"pause": null}"#, true)] {
        let answer = cluster.rest(0, "PATCH", "/config", body, Duration::from_secs(5)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        armed(wanted);
        assert!(cluster.states().unwrap()[0].is_primary(), "the primary goes on");
    }
}
