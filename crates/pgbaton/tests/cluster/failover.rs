//! The primary's whole member is killed: another one leads with everything that had left, and the killed one comes back.

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::Part;

use super::{LIMIT, commit_elsewhere, commits, healthy, others, value, wait_for_value, writing};

#[test]
fn a_killed_primary_is_replaced_and_comes_back_rewound() {
    let mut cluster = healthy();
    let old = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);

    // What every standby has cannot be lost; what cannot leave the old primary must be gone everywhere afterwards.
    cluster.sql(old, "CREATE TABLE fate (id int)").unwrap();
    cluster.sql(old, "INSERT INTO fate VALUES (1)").unwrap();
    for standby in others(old) {
        wait_for_value(&cluster, standby, "SELECT count(*) FROM fate", "1");
    }
    let arrived = writer.last_commit().unwrap().id;
    for standby in others(old) {
        wait_for_value(&cluster, standby, &format!("SELECT count(*) FROM pgbaton_writer WHERE id = {arrived}"), "1");
    }
    cluster.freeze(old, Part::WalSenders).unwrap();
    cluster.sql(old, "INSERT INTO fate VALUES (2)").unwrap();
    commits(&writer, 5);
    let killed = clock::now();
    cluster.kill_member(old).unwrap();

    let new = commit_elsewhere(&writer, killed, old).server;
    assert_eq!(value(&cluster, new, "SELECT string_agg(id::text, ' ') FROM fate"), "1");
    let missing = writer.missing_on(cluster.servers()[new]).unwrap();
    assert!(missing.iter().all(|row| *row > arrived), "rows that a standby had are missing: {missing:?}");
    assert!(!missing.is_empty(), "the frozen senders sent rows all the same");
    let states = cluster.states().unwrap();
    assert_eq!(states.iter().filter(|state| state.is_primary()).count(), 1, "{states:?}");

    cluster.start(old).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), new, "the killed member's return changes no leader");
    wait_for_value(&cluster, old, "SELECT string_agg(id::text, ' ') FROM fate", "1");
    let log = std::fs::read_to_string(cluster.log_path(old)).unwrap();
    let rewound = format!("done operation=rewind to {}", cluster.name(new));
    assert!(log.contains(&rewound), "no line `{rewound}` in the log of {}", cluster.name(old));
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
}
