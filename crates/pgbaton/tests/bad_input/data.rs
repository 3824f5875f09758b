//! A data directory that is somebody else's: another agent's, another cluster's.

use std::fs;

use crate::ground::Ground;

#[test]
fn a_second_agent_and_another_clusters_data_are_refused() {
    let mut ground = Ground::new();
    let (yaml_a, yaml_b) = (ground.yaml("a", 0), ground.yaml("b", 2));
    let a = ground.start("a", &yaml_a);
    ground.wait_leader("a", 0, &a);
    ground.sql(0, "CREATE TABLE kept AS SELECT 42 AS n").unwrap();

    // The same data directory, everything else its own.
    let own_data = format!("data_dir: {}", ground.path("b-data").display());
    let same_data = format!("data_dir: {}", ground.path("a-data").display());
    let manages = format!("manages the data directory {}: stop it first", ground.path("a-data").display());
    ground.refused(
        "a second agent",
        "second",
        &yaml_b.replace(&own_data, &same_data),
        &["another agent (process ", &manages],
    );
    // The same store, everything else its own.
    let own_store = format!("data_dir: {}", ground.path("b-store").display());
    let same_store = format!("data_dir: {}", ground.path("a-store").display());
    let said = [ground.path("a-store").display().to_string(), "raft.data_dir".to_owned()];
    ground.refused("a second store", "third", &yaml_b.replace(&own_store, &same_store), &[&said[0], &said[1]]);
    ground.wait_leader("a", 0, &a);
    ground.stop(&a);

    // The data of one cluster under the store of another.
    fs::remove_dir_all(ground.path("b-store")).unwrap_or_default();
    let b = ground.start("b", &yaml_b);
    ground.wait_leader("b", 2, &b);
    ground.stop(&b);
    let mixed = yaml_b.replace(&own_data, &same_data);
    let said = ["ERROR the data directory belongs to the cluster ", "move it away, or correct `data_dir` or `scope`"];
    assert_untouched(&mut ground, &mixed, &said);
    // A standby's, which would follow the wrong primary.
    let signal = ground.path("a-data/standby.signal");
    fs::write(&signal, "").unwrap();
    ground.user.own(&signal).unwrap();
    assert_untouched(&mut ground, &mixed, &said);
    fs::remove_file(&signal).unwrap();

    // Both are what they were.
    let a = ground.start("a", &yaml_a);
    ground.wait_leader("a", 0, &a);
    assert_eq!(ground.sql(0, "SELECT n FROM kept").unwrap(), "42");
    let b = ground.start("b", &yaml_b);
    ground.wait_leader("b", 2, &b);
    ground.stop(&a);
    ground.stop(&b);
}

/// The member is refused, and nothing was started on `a-data` or changed in it: every file, its control file and
/// `standby.signal` included, has the time of change that it had.
fn assert_untouched(ground: &mut Ground, yaml: &str, said: &[&str]) {
    let before = ground.files("a-data");
    ground.refused("another cluster's data", "mixed", yaml, said);
    ground.assert_unchanged("a-data", &before, "another cluster's data");
    let left = ground.host.processes().unwrap();
    assert!(left.is_empty(), "{left:?}");
}
