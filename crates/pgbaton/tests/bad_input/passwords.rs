//! Wrong passwords of the database: who refuses whom is said with the key to correct, and all goes on once it is right.

use crate::ground::Ground;
use crate::peers::raft;

#[test]
fn a_standby_with_a_wrong_password_says_so_and_clones_once_it_is_right() {
    let mut ground = Ground::new();
    let (store_a, store_b) = (ground.port(4), ground.port(5));
    let yaml_a = ground.yaml("a", 0).replace("raft:\n", &raft(store_a, &format!("127.0.0.1:{store_b}"), "one"));
    let yaml_b = ground.yaml("b", 2).replace("raft:\n", &raft(store_b, &format!("127.0.0.1:{store_a}"), "one"));
    let wrong = yaml_b.replace("username: replicator, password: test", "username: replicator, password: other");
    assert_ne!(yaml_b, wrong);
    // Whoever has the wrong password must not be the one that makes the cluster.
    let wrong = format!("{wrong}tags: {{nofailover: true}}\n");
    let a = ground.start("a", &yaml_a);
    let b = ground.start("b", &wrong);
    ground.wait_leader("a", 0, &a);
    ground.sql(0, "CREATE TABLE kept AS SELECT 42 AS n").unwrap();
    b.wait_for_words(&[
        "password authentication failed for user \"replicator\"",
        "check that postgresql.authentication.replication is the same on all members",
    ]);
    ground.assert_running(&b);
    assert!(!ground.path("b-data").join("PG_VERSION").exists(), "half a copy");
    ground.wait_leader("a", 0, &a);

    ground.stop(&b);
    let b = ground.start("b", &yaml_b);
    ground.wait_for("b", 0, &b, "Replica", "streaming");
    assert_eq!(ground.sql(2, "SELECT n FROM kept").unwrap(), "42");
    ground.stop(&b);
    ground.host.kill_all().unwrap();
}

#[test]
fn a_primary_that_lets_its_own_agent_not_in_says_so_and_is_led_once_it_does() {
    let mut ground = Ground::new();
    let right = ground.yaml("a", 0).replace("local all all trust", "local all all scram-sha-256");
    let a = ground.start("a", &right);
    ground.wait_leader("a", 0, &a);
    ground.sql(0, "CREATE TABLE kept AS SELECT 42 AS n").unwrap();
    ground.stop(&a);
    let wrong = right.replace("username: postgres, password: test", "username: postgres, password: other");
    assert_ne!(right, wrong);
    let a = ground.start("a", &wrong);
    a.wait_for_words(&[
        "password authentication failed for user \"postgres\"",
        "check postgresql.authentication.superuser",
    ]);
    ground.assert_running(&a);
    ground.stop(&a);
    let a = ground.start("a", &right);
    ground.wait_leader("a", 0, &a);
    assert_eq!(ground.sql(0, "SELECT n FROM kept").unwrap(), "42");

    // The same beside a primary that runs: it goes on serving.
    ground.configure("a", &wrong);
    ground.kill_agent();
    a.wait_for_words(&["the server does not let the agent in: check postgresql.authentication.superuser and pg_hba"]);
    ground.sql(0, "INSERT INTO kept VALUES (43)").unwrap();
    ground.configure("a", &right);
    ground.reload(&a);
    ground.wait_leader("a", 0, &a);
    assert_eq!(ground.sql(0, "SELECT sum(n) FROM kept").unwrap(), "85");
    ground.stop(&a);
}
