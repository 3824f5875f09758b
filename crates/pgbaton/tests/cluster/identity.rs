//! There is never a second identity: an empty member beside members with data makes no database, and members without a
//! store's history choose no primary as long as one of them is missing.

use pgbaton_testkit::Cluster;
use pgbaton_testkit::cluster::{Part, ServerState};

use super::formation::{listens, with_rows};
use super::{LIMIT, healthy, wait_for_value};

#[test]
fn a_wiped_store_leads_to_no_second_identity() {
    let mut cluster = healthy();
    let identity = cluster.system_id(0).unwrap();
    let rows = with_rows(&cluster);
    for member in 0..cluster.size() {
        cluster.kill_member(member).unwrap();
        cluster.lose_store(member).unwrap();
    }
    // The worst case: who starts first has nothing at all, and one of those with data is missing.
    cluster.lose_disk(2).unwrap();
    cluster.start(2).unwrap();
    listens(&cluster, 2);
    cluster.start(1).unwrap();
    listens(&cluster, 1);
    let reason = cluster
        .awaiting("a reason why nobody leads", LIMIT, || {
            Ok(cluster.blocked(2).or_else(|| cluster.blocked(1)).ok_or_else(|| "none".to_owned()))
        })
        .unwrap();
    no_database_is_made(&cluster, &reason);

    cluster.start(0).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    for member in 0..cluster.size() {
        assert_eq!(cluster.system_id(member).unwrap(), identity, "member {member} is of another cluster");
        wait_for_value(&cluster, member, "SELECT count(*) FROM kept", &rows);
    }
}

/// Looks for longer than every lease that a member can have recorded.
fn no_database_is_made(cluster: &Cluster, reason: &str) {
    let until = pgbaton_testkit::clock::now() + std::time::Duration::from_secs_f64(cluster.options().ttl * 1.5);
    cluster
        .awaiting("the end of every recorded lease", LIMIT, || {
            assert!(!cluster.data_dir(2).join("global/pg_control").exists(), "initdb beside data; {reason}");
            let states = cluster.states()?;
            assert!(!states.iter().any(ServerState::is_primary), "{states:?}; {reason}");
            assert!(cluster.is_running(1)? && cluster.is_running(2)?, "a member ended");
            let over = pgbaton_testkit::clock::now().reached(until);
            Ok(if over { Ok(()) } else { Err("not yet".to_owned()) })
        })
        .unwrap();
    assert_eq!(cluster.pids(2, Part::Server).unwrap(), []);
}
