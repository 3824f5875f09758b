//! A killed postmaster is started again in place, under the same lease and on the same timeline.

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::Part;
use rustix::process::Signal;

use super::{LIMIT, commit_after, healthy, nothing_lost, others, timeline, wait_for_ended_session, writing};

#[test]
fn a_killed_postmaster_is_started_again_in_place() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    let epoch = epoch(&cluster, primary);

    cluster.signal(primary, Part::Postmaster, Signal::KILL).unwrap();
    wait_for_ended_session(&writer, primary);
    let commit = commit_after(&writer, clock::now());
    assert_eq!(commit.server, primary, "another member took over");
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(timeline(&cluster, primary), 1);
    assert_eq!(self::epoch(&cluster, primary), epoch, "it is another reign");
    nothing_lost(&cluster, &writer, primary);

    // A standby's postmaster is nobody else's business.
    let standby = others(primary)[0];
    let before = cluster.pids(standby, Part::Postmaster).unwrap();
    cluster.signal(standby, Part::Postmaster, Signal::KILL).unwrap();
    cluster
        .awaiting("another postmaster on the standby", LIMIT, || {
            let now = cluster.pids(standby, Part::Postmaster)?;
            Ok(if now.len() == 1 && now != before { Ok(()) } else { Err(format!("{now:?}")) })
        })
        .unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), primary);
    assert_eq!(writer.so_far().moves(), 0);
    nothing_lost(&cluster, &writer, primary);
}

fn epoch(cluster: &pgbaton_testkit::Cluster, member: usize) -> u64 {
    let answer = cluster.rest(member, "GET", "/explain", "", LIMIT).unwrap();
    answer.json()["epoch"].as_u64().unwrap_or_else(|| panic!("no epoch in {answer:?}"))
}
