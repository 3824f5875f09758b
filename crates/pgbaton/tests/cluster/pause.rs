//! A paused cluster is left alone: the guard is disarmed, nothing is promoted, nothing is started; resumed, it is whole again.

use pgbaton_testkit::Cluster;
use pgbaton_testkit::cluster::Part;

use super::{LIMIT, healthy, nothing_lost, others, timeline, writes_for, writing};

#[test]
fn a_paused_cluster_outlives_its_agents_and_is_guarded_again_afterwards() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);

    pause(&cluster, primary, true);
    for member in 0..cluster.size() {
        cluster.freeze(member, Part::Agent).unwrap();
    }
    // All agents are frozen for longer than the lease: armed, the guard would have killed the server.
    writes_for(&writer, cluster.options().ttl + 3.0);
    for member in 0..cluster.size() {
        cluster.thaw(member, Part::Agent).unwrap();
    }
    writes_for(&writer, 2.0);
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), primary);
    assert_eq!(timeline(&cluster, primary), 1, "a paused cluster was promoted");

    // A standby that is stopped by hand stays down: maintenance is what a pause is for.
    let standby = others(primary)[0];
    cluster.signal(standby, Part::Postmaster, rustix::process::Signal::INT).unwrap();
    cluster
        .awaiting("the end of the standby's server", LIMIT, || {
            let left = cluster.pids(standby, Part::Server)?;
            Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
        })
        .unwrap();
    writes_for(&writer, 2.0 * cluster.options().loop_wait);
    assert_eq!(cluster.pids(standby, Part::Server).unwrap(), [], "a paused member started its server");

    pause(&cluster, primary, false);
    cluster.wait_healthy(LIMIT).unwrap();
    guard_armed(&cluster, primary, true);
    assert_eq!(writer.so_far().moves(), 0);
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn a_member_that_ends_in_a_pause_leaves_its_server_and_finds_it_again() {
    let mut cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let standby = others(primary)[0];
    let writer = writing(&cluster);
    pause(&cluster, primary, true);
    for member in [primary, standby] {
        let server = cluster.pids(member, Part::Postmaster).unwrap();
        cluster.terminate(member).unwrap();
        ended(&cluster, member);
        assert_eq!(cluster.pids(member, Part::Postmaster).unwrap(), server, "another postmaster, or none");
    }
    // Longer than the lease: nobody enforces it, and nobody is promoted.
    writes_for(&writer, cluster.options().ttl + 2.0);

    for member in [primary, standby] {
        let server = cluster.pids(member, Part::Postmaster).unwrap();
        cluster.start(member).unwrap();
        knows_its_server(&cluster, member);
        assert_eq!(cluster.pids(member, Part::Postmaster).unwrap(), server, "another postmaster, or none");
    }
    writes_for(&writer, 2.0 * cluster.options().loop_wait);

    // From here on a deadline is enforced again, so the servers are started anew below the guards.
    pause(&cluster, primary, false);
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), primary);
    assert_eq!(timeline(&cluster, primary), 1, "it was not taken over in place");
    nothing_lost(&cluster, &writer, primary);
}

/// Waits until the member's main process has ended in an orderly way.
fn ended(cluster: &Cluster, member: usize) {
    cluster
        .awaiting("the end of the guard", LIMIT, || match cluster.exit_code(member)? {
            Some(0) => Ok(Ok(())),
            other => Ok(Err(format!("{other:?}"))),
        })
        .unwrap();
}

/// Waits until the member's agent sees its server, and the holder's has its lease.
pub(super) fn knows_its_server(cluster: &Cluster, member: usize) {
    cluster
        .awaiting("an agent that knows its server", LIMIT, || {
            let status = cluster.rest(member, "GET", "/patroni", "", LIMIT)?.json();
            let explained = cluster.rest(member, "GET", "/explain", "", LIMIT)?.json();
            let holds = explained["lease"]["remaining_ms"].is_number();
            let known = status["state"] == "running" && (status["role"] != "primary" || holds);
            Ok(if known { Ok(()) } else { Err(format!("{status} {explained}")) })
        })
        .unwrap();
}

pub(super) fn pause(cluster: &Cluster, member: usize, paused: bool) {
    let answer = cluster.rest(member, "PATCH", "/config", &format!("{{\"pause\": {paused}}}"), LIMIT).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    guard_armed(cluster, member, !paused);
    for other in others(member) {
        cluster
            .awaiting("every member to know", LIMIT, || {
                let document = cluster.rest(other, "GET", "/explain", "", LIMIT)?.json();
                Ok(if document["paused"] == paused { Ok(()) } else { Err(document.to_string()) })
            })
            .unwrap();
    }
}

fn guard_armed(cluster: &Cluster, member: usize, armed: bool) {
    cluster
        .awaiting(&format!("a guard with armed = {armed}"), LIMIT, || {
            let document = cluster.rest(member, "GET", "/explain", "", LIMIT)?.json();
            let found = document["lease"]["guard"]["armed"].as_bool();
            Ok(if found == Some(armed) { Ok(()) } else { Err(document.to_string()) })
        })
        .unwrap();
}
