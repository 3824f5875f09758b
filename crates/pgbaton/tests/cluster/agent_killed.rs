//! An agent that is frozen for a moment, or killed, costs no session and no commit.

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::{Cluster, Options, Part};
use pgbaton_testkit::writer::Record;
use rustix::process::Signal;

use super::{LIMIT, commit_elsewhere, healthy, nothing_lost, options, others, prepared, timeline, writing};

#[test]
fn an_agent_frozen_briefly_or_killed_costs_no_session() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    let postmaster = cluster.pids(primary, Part::Postmaster).unwrap();
    let before = (ended_sessions(&writer.so_far(), primary), writer.so_far().failures().len());

    cluster.freeze(primary, Part::Agent).unwrap();
    // By time, not by commits: how long those take is the disk's affair, and the lease ends after 3.5 s.
    super::writes_for(&writer, 1.0);
    cluster.thaw(primary, Part::Agent).unwrap();
    leads_again(&cluster, primary);

    let killed = cluster.pids(primary, Part::Agent).unwrap();
    cluster.signal(primary, Part::Agent, Signal::KILL).unwrap();
    cluster
        .awaiting("an agent started anew", LIMIT, || {
            let now = cluster.pids(primary, Part::Agent)?;
            Ok(if now.len() == 1 && now != killed { Ok(()) } else { Err(format!("{now:?}")) })
        })
        .unwrap();
    leads_again(&cluster, primary);
    // Long enough for a lease that was not renewed to run out.
    super::writes_for(&writer, cluster.options().ttl + 2.0);
    cluster.wait_healthy(LIMIT).unwrap();

    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), primary);
    assert_eq!(timeline(&cluster, primary), 1);
    assert_eq!(cluster.pids(primary, Part::Postmaster).unwrap(), postmaster, "the server was started again");
    let after = (ended_sessions(&writer.so_far(), primary), writer.so_far().failures().len());
    assert_eq!(after, before, "a session ended or a commit failed: {:?}", writer.so_far().failures());
    nothing_lost(&cluster, &writer, primary);
}

#[test]
fn an_agent_killed_during_a_promotion_keeps_the_lease_until_the_server_is_one_thing_or_the_other() {
    // The next agent speaks within the lease, however slow the machine is: the order is what counts here.
    let mut cluster = prepared(Options { ttl: 12.0, retry_timeout: 4.0, ..options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let old = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    // A promotion waits for the end of its WAL receiver.
    for standby in others(old) {
        cluster.freeze(standby, Part::WalReceiver).unwrap();
    }
    let instant = clock::now();
    cluster.kill_member(old).unwrap();
    let new = cluster
        .awaiting("a member that promotes its server", LIMIT, || {
            let promotes = |member: &usize| cluster.blocked(*member).is_some_and(|why| why.contains("promote in"));
            Ok(others(old).into_iter().find(promotes).ok_or_else(|| "none does".to_owned()))
        })
        .unwrap();
    let [promoting, other] = if others(old)[0] == new { others(old) } else { [others(old)[1], others(old)[0]] };
    let agent = cluster.pids(promoting, Part::Agent).unwrap();
    // What the next agent decides first, it decides without the store.
    cluster.freeze(other, Part::Agent).unwrap();
    cluster.signal(promoting, Part::Agent, Signal::KILL).unwrap();
    cluster
        .awaiting("the next agent's word", LIMIT, || {
            let now = cluster.pids(promoting, Part::Agent)?;
            let why = cluster.blocked(promoting).filter(|_| now != agent);
            Ok(why.map(|_| ()).ok_or_else(|| format!("{now:?}")))
        })
        .unwrap();
    cluster.thaw(other, Part::Agent).unwrap();
    for standby in [promoting, other] {
        cluster.thaw(standby, Part::WalReceiver).unwrap();
    }
    let commit = commit_elsewhere(&writer, instant, old);
    let log = std::fs::read_to_string(cluster.log_path(promoting)).unwrap();
    assert!(!log.contains("gives the lease back"), "{log}");
    assert_eq!(commit.server, promoting, "the lease changed hands while a promotion could not be taken back");
    cluster.start(old).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(timeline(&cluster, promoting), 2);
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
}

fn leads_again(cluster: &Cluster, member: usize) {
    cluster
        .awaiting("the word of the agent that its server is the primary", LIMIT, || {
            let answer = cluster.rest(member, "GET", "/primary", "", LIMIT)?;
            Ok(if answer.status == 200 { Ok(()) } else { Err(answer.body) })
        })
        .unwrap();
}

/// How many sessions with a server have ended or were refused.
fn ended_sessions(record: &Record, server: usize) -> u64 {
    record.refusals().iter().filter(|((refusing, _), _)| *refusing == server).map(|(_, count)| count).sum()
}
