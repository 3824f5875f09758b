//! Who goes where, and when that ends.

use super::*;

use pgbaton_testkit::cluster::{Options, Part};
use rustix::process::Signal;

#[test]
fn clients_follow_a_switchover_and_no_connection_fails() {
    let (cluster, router) = routed("", "");
    let first = cluster.wait_primary(LIMIT).unwrap();
    let mut old = session(router.writes()).unwrap();
    assert_eq!(place(&mut old), (cluster.postgres_port(first), false));

    let (ended, end) = std::sync::mpsc::channel();
    let writes = router.writes();
    let connecting = std::thread::spawn(move || {
        // One connection after the other, each with a write, until the switchover is over.
        let mut made = 0;
        loop {
            let over = end.try_recv().is_ok();
            let mut client = session(writes).unwrap_or_else(|error| panic!("connection {made} failed: {error}"));
            let kept = client.batch_execute("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)");
            // What was connected before the switchover ends with the server; what is connected is a session of its own.
            if kept.is_ok() {
                made += 1;
            }
            if over {
                return made;
            }
        }
    });
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    ended.send(()).unwrap();
    assert!(connecting.join().unwrap() > 0);

    assert!(old.batch_execute("SELECT 1").is_err(), "a session goes on that was bound to the old primary");
    let second = cluster.wait_primary(LIMIT).unwrap();
    assert_ne!(first, second);
    assert_eq!(place(&mut session(router.writes()).unwrap()), (cluster.postgres_port(second), false));
}

#[test]
fn readers_go_to_standbys_and_leave_one_that_is_promoted() {
    let (cluster, router) = routed("", "");
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let mut readers: Vec<Client> = (0..2).map(|_| session(router.reads()).unwrap()).collect();
    let mut places: Vec<(u16, bool)> = readers.iter_mut().map(place).collect();
    places.sort_unstable();
    let mut standbys: Vec<(u16, bool)> =
        others(primary).into_iter().map(|member| (cluster.postgres_port(member), true)).collect();
    standbys.sort_unstable();
    assert_eq!(places, standbys, "one on each");

    let answer = cluster.switchover(primary, primary, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster.wait_healthy(LIMIT).unwrap();
    let promoted = cluster.postgres_port(cluster.wait_primary(LIMIT).unwrap());
    let gone = |client: &mut Client| client.batch_execute("SELECT 1").is_err();
    let mut left: Vec<u16> = Vec::new();
    for client in &mut readers {
        if !gone(client) {
            left.push(place(client).0);
        }
    }
    assert!(!left.contains(&promoted), "a reader stayed on what is the primary now");
}

#[test]
fn who_comes_while_there_is_no_primary_waits_and_is_served_by_the_next_one() {
    let (cluster, router) = routed("  hold_within: 35\n", "");
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let old = cluster.postgres_port(primary);
    let mut bound = session(router.writes()).unwrap();
    // As a host that does not answer any more: whoever waits for it waits for ever.
    for part in [Part::OuterGuard, Part::InnerGuard, Part::Agent, Part::Server] {
        cluster.freeze(primary, part).unwrap();
    }
    wait::until("the reign to end", LIMIT, || {
        let page = page(&router, "/status")?;
        if page["baton"]["primary"]["port"] == old { Err(page.to_string()) } else { Ok(()) }
    })
    .unwrap();
    let mut client = session(router.writes()).unwrap();
    let (now, recovery) = place(&mut client);
    assert!(now != old && !recovery, "port {now}, in recovery: {recovery}");
    assert!(bound.batch_execute("SELECT 1").is_err(), "a session stays on a server that has lost its reign");
}

#[test]
fn all_sessions_end_when_the_store_cannot_be_asked_for_the_time_of_the_lease() {
    // The router's time is over long before the cluster's lease, after which the server's end would end the sessions.
    let mut cluster = prepared(Options { ttl: 12.0, retry_timeout: 4.0, ..options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let mut router = before(&cluster, "  lease: 3\n  hold_within: 1\n", "");
    let (mut writes, mut reads) = (session(router.writes()).unwrap(), session(router.reads()).unwrap());
    // The router alone is cut off: its view is what it was.
    for member in 0..cluster.size() {
        cluster.signal(member, Part::Agent, Signal::STOP).unwrap();
    }
    wait::until("the sessions to end", LIMIT, || {
        let page = text(&router, "/metrics")?;
        let cut =
            ["rw", "ro"].iter().all(|port| page.contains(&format!("pgbaton_router_cut_total{{port=\"{port}\"}} 1")));
        if cut { Ok(()) } else { Err(page) }
    })
    .unwrap();
    assert!(writes.batch_execute("SELECT 1").is_err());
    assert!(reads.batch_execute("SELECT 1").is_err());
    let refused = session(router.writes()).err().unwrap();
    let said = refused.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(said.contains("the store has not answered for too long"), "{refused}: {said}");
    for member in 0..cluster.size() {
        cluster.signal(member, Part::Agent, Signal::CONT).unwrap();
    }
    assert!(router.process().signal(Signal::TERM).is_ok());
    assert!(router.process().wait(LIMIT).unwrap().success());
}
