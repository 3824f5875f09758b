//! What becomes of a cluster whose etcd is paused, slow, restarted, without a leader, wiped, or restored from an old copy.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgbaton_testkit::Cluster;
use pgbaton_testkit::cluster::{Options, ServerState, StoreKind};
use pgbaton_testkit::{clock, wait};
use pgbaton_types::BootTime;
use rustix::process::Signal;

use super::{LIMIT, commit_after, commits, healthy, nothing_lost, options, others, prepared, timeline, writing};

/// How much later a slow etcd answers: many times what it takes, and below what an agent gives one call.
const SLOW: Duration = Duration::from_millis(600);

#[test]
fn a_pause_of_etcd_costs_nothing_while_it_is_short_and_one_primary_when_it_is_not() {
    let mut cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    cluster.etcd().unwrap().signal(0, Signal::STOP).unwrap();
    // By time, not by commits: how long those take is the disk's affair, and the lease ends after 3.5 s.
    super::writes_for(&writer, 1.0);
    cluster.etcd().unwrap().signal(0, Signal::CONT).unwrap();
    // One after the other: the lease outlives either.
    all_have_read(&cluster);
    cluster.etcd().unwrap().kill(0);
    cluster.etcd().unwrap().start_member(0).unwrap();
    // Longer than the lease from there on: it was renewed by the one that is back.
    super::writes_for(&writer, cluster.options().ttl + 2.0);
    assert_eq!((cluster.wait_primary(LIMIT).unwrap(), timeline(&cluster, primary)), (primary, 1));

    cluster.etcd().unwrap().signal(0, Signal::STOP).unwrap();
    nobody_writes(&cluster);
    let back = clock::now();
    cluster.etcd().unwrap().signal(0, Signal::CONT).unwrap();
    commit_after(&writer, back);
    cluster.wait_healthy(LIMIT).unwrap();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn a_slow_etcd_costs_no_leader() {
    let mut cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let before = epoch(&cluster, primary);
    let writer = writing(&cluster);
    // Whatever it is asked, it answers up to so much later: for longer than a lease.
    let end = clock::now() + Duration::from_secs_f64(cluster.options().ttl * 1.5);
    while clock::now() < end {
        cluster.etcd().unwrap().signal(0, Signal::STOP).unwrap();
        // waits: the delay
        std::thread::sleep(SLOW);
        cluster.etcd().unwrap().signal(0, Signal::CONT).unwrap();
        // It answers what has come in meanwhile.
        wait::until("an answer of etcd", LIMIT, || takes_part(&cluster.etcd().unwrap().endpoint(0))).unwrap();
    }
    assert_eq!((cluster.wait_primary(LIMIT).unwrap(), epoch(&cluster, primary)), (primary, before));
    commits(&writer, 50);
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn members_of_etcd_may_go_one_by_one_until_it_has_no_leader() {
    let mut cluster = prepared(Options { store: StoreKind::Etcd(3), ttl: 7.0, retry_timeout: 2.5, ..super::options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let before = epoch(&cluster, primary);
    let writer = writing(&cluster);
    // Each in its turn, the leader among them: an election of etcd's costs no lease.
    for member in 0..3 {
        cluster.etcd().unwrap().kill(member);
        super::writes_for(&writer, 2.5);
        cluster.etcd().unwrap().start_member(member).unwrap();
        // The next one goes when this one takes part again, or two are gone at once.
        let endpoint = cluster.etcd().unwrap().endpoint(member);
        wait::until("a member of etcd that takes part", LIMIT, || takes_part(&endpoint)).unwrap();
    }
    assert_eq!((cluster.wait_primary(LIMIT).unwrap(), epoch(&cluster, primary)), (primary, before));

    cluster.etcd().unwrap().kill(0);
    cluster.etcd().unwrap().kill(1);
    nobody_writes(&cluster);
    let back = clock::now();
    cluster.etcd().unwrap().start_member(0).unwrap();
    commit_after(&writer, back);
    cluster.wait_healthy(LIMIT).unwrap();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn an_etcd_that_was_wiped_is_filled_again_by_who_has_the_data() {
    let mut cluster = healthy();
    let writer = writing(&cluster);
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let (system_id, before) = (cluster.system_id(primary).unwrap(), epoch(&cluster, primary));
    let wiped = wipe(&mut cluster);
    let primary = led_above(&cluster, before);
    commit_after(&writer, wiped);
    cluster.wait_healthy(LIMIT).unwrap();
    for member in 0..cluster.size() {
        assert_eq!(cluster.system_id(member).unwrap(), system_id, "another cluster was made");
    }
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn a_wiped_etcd_makes_nobody_primary_while_a_member_is_away_until_its_keys_are_put_back() {
    let mut cluster = healthy();
    let writer = writing(&cluster);
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let ([absent, other], before) = (others(primary), epoch(&cluster, primary));
    let keys = cluster.socket_dir(primary).join("keys.json");
    store(&cluster, primary, "export", &keys);
    cluster.kill_member(absent).unwrap();
    wipe(&mut cluster);
    let silent = cluster.rest_addresses()[absent].to_string();
    for member in [primary, other] {
        waits_for(&cluster, member, &silent);
    }
    nobody_writes(&cluster);

    let back = clock::now();
    store(&cluster, primary, "import", &keys);
    led_above(&cluster, before);
    commit_after(&writer, back);
    cluster.start(absent).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    // What had not left the primary when it lost its lease may be lost: nobody waits for a former holder.
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
}

#[test]
fn a_member_that_only_another_one_knows_is_asked_as_well_when_etcd_was_wiped() {
    let mut cluster = prepared(options());
    let (known, new) = (1, 2);
    cluster.start(0).unwrap();
    cluster.wait_primary(LIMIT).unwrap();
    let before = epoch(&cluster, 0);
    cluster.start(known).unwrap();
    cluster.wait_streaming(known, LIMIT).unwrap();
    cluster.kill_member(known).unwrap();
    cluster.start(new).unwrap();
    cluster.wait_streaming(new, LIMIT).unwrap();
    cluster.kill_member(new).unwrap();
    wipe(&mut cluster);
    cluster.start(known).unwrap();
    let silent = cluster.rest_addresses()[new].to_string();
    for member in [0, known] {
        waits_for(&cluster, member, &silent);
    }
    cluster.start(new).unwrap();
    led_above(&cluster, before);
    cluster.wait_healthy(LIMIT).unwrap();
}

#[test]
fn an_etcd_that_was_restored_from_an_old_copy_makes_nobody_primary_twice() {
    let mut cluster = healthy();
    let writer = writing(&cluster);
    let first = cluster.wait_primary(LIMIT).unwrap();
    let data = cluster.etcd().unwrap().data_dir(0).to_owned();
    let copy = data.with_extension("copy");
    cluster.etcd().unwrap().kill(0);
    duplicate(&data, &copy);
    cluster.etcd().unwrap().start_member(0).unwrap();
    all_have_read(&cluster);

    // What the copy does not know: another primary on another timeline.
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster.wait_healthy(LIMIT).unwrap();
    let second = cluster.wait_primary(LIMIT).unwrap();
    assert_ne!(first, second);
    let before = epoch(&cluster, second);
    commits(&writer, 50);

    cluster.etcd().unwrap().kill(0);
    std::fs::remove_dir_all(&data).unwrap();
    duplicate(&copy, &data);
    let restored = clock::now();
    cluster.etcd().unwrap().start_member(0).unwrap();
    let primary = led_above(&cluster, before);
    commit_after(&writer, restored);
    cluster.wait_healthy(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, primary);
}

/// Waits until a member says that it waits for the answer of an address.
fn waits_for(cluster: &Cluster, member: usize, silent: &str) {
    let wanted = format!("{silent} does not say whether a primary runs there");
    cluster
        .awaiting("a word on who is waited for", LIMIT, || {
            let why = cluster.blocked(member).unwrap_or_default();
            Ok(if why.contains(&wanted) { Ok(()) } else { Err(why) })
        })
        .unwrap();
}

/// Takes everything from an etcd of one member; gives when it was started again.
fn wipe(cluster: &mut Cluster) -> BootTime {
    cluster.etcd().unwrap().kill(0);
    let data = cluster.etcd().unwrap().data_dir(0).to_owned();
    std::fs::remove_dir_all(data.join("member")).unwrap();
    let wiped = clock::now();
    cluster.etcd().unwrap().start_member(0).unwrap();
    wiped
}

/// `pgbaton store`, with the file of a member.
fn store(cluster: &Cluster, member: usize, what: &str, file: &Path) {
    let mut command = Command::new(cluster.program());
    let done = command.arg("-c").arg(cluster.config(member)).args(["store", what]).arg(file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until somebody leads in a later epoch.
fn led_above(cluster: &Cluster, before: u64) -> usize {
    wait::until("a leader in a later epoch", LIMIT, || {
        let primary = cluster.wait_primary(LIMIT).map_err(|error| error.to_string())?;
        let now = epoch(cluster, primary);
        if now > before { Ok(primary) } else { Err(format!("epoch {now}, before it was {before}")) }
    })
    .unwrap()
}

/// Waits until no server takes writes.
fn nobody_writes(cluster: &Cluster) {
    cluster
        .awaiting("nobody to take writes", LIMIT, || {
            let states = cluster.states()?;
            let writable = states.iter().any(ServerState::is_primary);
            Ok(if writable { Err(format!("{states:?}")) } else { Ok(()) })
        })
        .unwrap();
}

/// A member of etcd reads linearizably, which needs a leader that it follows.
fn takes_part(endpoint: &str) -> Result<(), String> {
    let arguments = ["--endpoints", endpoint, "get", "/any"];
    let answer = Command::new("/usr/bin/etcdctl").env("ETCDCTL_API", "3").args(arguments).output().unwrap();
    if answer.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.stderr).into_owned()) }
}

/// Waits until every agent has asked the store anew and was answered.
fn all_have_read(cluster: &Cluster) {
    for member in 0..cluster.size() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // The first answer may be to a question from before; the next one is asked after it.
        let first = answered_after(cluster, member, now);
        answered_after(cluster, member, first);
    }
}

/// The second since 1970 of an agent's newest answer from the store, once it is later than that.
fn answered_after(cluster: &Cluster, member: usize, second: u64) -> u64 {
    wait::until("a new answer of the store", LIMIT, || {
        let status = cluster.rest(member, "GET", "/patroni", "", LIMIT).unwrap().json();
        let seen = status["dcs_last_seen"].as_u64().unwrap_or_default();
        if seen > second { Ok(seen) } else { Err(format!("member {member}: {seen}, wanted is one after {second}")) }
    })
    .unwrap()
}

/// The epoch in which a member leads; 0: in none.
fn epoch(cluster: &Cluster, member: usize) -> u64 {
    cluster.rest(member, "GET", "/explain", "", LIMIT).unwrap().json()["epoch"].as_u64().unwrap_or(0)
}

/// With owners and modes.
fn duplicate(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
