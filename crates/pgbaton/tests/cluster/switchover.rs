//! Planned switchovers lose nothing; what cannot be done is refused and the old primary goes on.

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::{Cluster, Part, Random};
use pgbaton_testkit::writer::Writer;

use super::{LIMIT, commit_after, commits, healthy, nothing_lost, others, timeline, writing};

/// Random instants in the short form; `cargo xtask trials switchover` has hundreds.
const INSTANTS: usize = 5;

#[test]
fn a_switchover_loses_nothing_and_a_refused_one_changes_nothing() {
    let cluster = healthy();
    let writer = writing(&cluster);
    let first = cluster.wait_primary(LIMIT).unwrap();
    let candidate = others(first)[0];

    with_a_candidate(&cluster, &writer, first, candidate);
    without_a_candidate(&cluster, &writer, candidate);
    let primary = cluster.wait_primary(LIMIT).unwrap();
    refused(&cluster, &writer, primary, others(primary)[0]);
}

fn with_a_candidate(cluster: &Cluster, writer: &Writer, from: usize, to: usize) {
    let before = timeline(cluster, from);
    let answer = cluster.switchover(other_of(from, to), from, Some(to)).unwrap();
    let answered = clock::now();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body.trim(), format!("Successfully switched over to \"{}\"", cluster.name(to)));
    assert_eq!(commit_after(writer, answered).server, to);
    nothing_lost(cluster, writer, to);
    assert_eq!(timeline(cluster, to), before + 1);
    cluster.wait_healthy(LIMIT).unwrap();
}

fn without_a_candidate(cluster: &Cluster, writer: &Writer, from: usize) {
    let answer = cluster.switchover(from, from, None).unwrap();
    let answered = clock::now();
    assert_eq!(answer.status, 200, "{answer:?}");
    let new = commit_after(writer, answered).server;
    assert_ne!(new, from);
    nothing_lost(cluster, writer, new);
    cluster.wait_healthy(LIMIT).unwrap();
}

/// A candidate whose receiver is stopped cannot have what was written meanwhile.
fn refused(cluster: &Cluster, writer: &Writer, from: usize, to: usize) {
    let before = timeline(cluster, from);
    cluster.freeze(to, Part::WalReceiver).unwrap();
    commits(writer, 20);
    let answer = cluster.switchover(from, from, Some(to)).unwrap();
    let answered = clock::now();
    assert_eq!(answer.status, 503, "{answer:?}");
    let now = &cluster.states().unwrap()[from];
    assert!(now.is_primary(), "the refusal was told before the old primary took writes again: {now:?}");
    assert!(answer.body.contains(cluster.name(to)), "the reason does not name the candidate: {answer:?}");
    assert_eq!(commit_after(writer, answered).server, from);
    cluster.thaw(to, Part::WalReceiver).unwrap();
    nothing_lost(cluster, writer, from);
    assert_eq!(timeline(cluster, from), before, "nothing was promoted");
    cluster.wait_healthy(LIMIT).unwrap();
}

#[test]
fn switchovers_at_random_instants_of_a_new_cluster_lose_nothing() {
    let mut cluster = super::prepared(super::options());
    cluster.start_all().unwrap();
    let writer = writing(&cluster);
    let mut random = Random::new(20, 0);
    for instant in 0..INSTANTS {
        commits(&writer, random.below(60));
        let from = writer.last_commit().unwrap().server;
        let to = others(from)[random.below(2)];
        let stopped = random.chance(30) && cluster.freeze(to, Part::WalReceiver).is_ok();
        let answer = cluster.switchover(from, from, random.chance(50).then_some(to)).unwrap();
        let answered = clock::now();
        if stopped {
            cluster.thaw(to, Part::WalReceiver).unwrap();
        }
        let now = commit_after(&writer, answered).server;
        assert_eq!(answer.status == 200, now != from, "instant {instant}: {answer:?}, and member {now} takes writes");
        nothing_lost(&cluster, &writer, now);
    }
    cluster.wait_healthy(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, cluster.wait_primary(LIMIT).unwrap());
}

fn other_of(one: usize, two: usize) -> usize {
    3 - one - two
}

#[test]
fn a_standby_that_takes_no_more_wal_holds_no_stop_of_the_primary_up() {
    // A stop may take as long as this allows: on a busy machine the least that is possible is not enough for anything.
    let patient = pgbaton_testkit::cluster::Options { ttl: 10.0, retry_timeout: 4.0, ..super::options() };
    let mut cluster = super::prepared(patient);
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let writer = writing(&cluster);
    let old = cluster.wait_primary(LIMIT).unwrap();
    let [new, third] = others(old);

    hang(&cluster, old, third);
    let answer = cluster.rest(old, "POST", "/restart", "{}", LIMIT).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let log = std::fs::read_to_string(cluster.log_path(old)).unwrap();
    assert!(!log.contains("was interrupted"), "it was shut down and not killed: {log}");
    cluster.thaw(third, Part::WalReceiver).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();

    hang(&cluster, old, third);
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}\n{}", std::fs::read_to_string(cluster.log_path(old)).unwrap());
    cluster.thaw(third, Part::WalReceiver).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, new);
}

/// The member's connection to the primary stays, but takes nothing more, and cannot hold what it is yet to be sent.
fn hang(cluster: &Cluster, primary: usize, member: usize) {
    cluster.freeze(member, Part::WalReceiver).unwrap();
    let more = "SELECT pg_logical_emit_message(false, 'a', repeat('b', 1000000)) FROM generate_series(1, 32)";
    cluster.sql(primary, more).unwrap();
    cluster
        .awaiting("the other standby with all of it", LIMIT, || {
            let lag = "SELECT count(*) FROM pg_stat_replication WHERE pg_current_wal_lsn() - sent_lsn < 1000000";
            let rows = cluster.sql(primary, lag)?;
            let found = rows[0][0].clone().unwrap_or_default();
            Ok(if found == "1" { Ok(()) } else { Err(found) })
        })
        .unwrap();
}
