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

fn pause(cluster: &Cluster, member: usize, paused: bool) {
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
