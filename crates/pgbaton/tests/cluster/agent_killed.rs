//! An agent that is frozen for a moment, or killed, costs no session and no commit.

use pgbaton_testkit::cluster::{Cluster, Part};
use pgbaton_testkit::writer::Record;

use super::{LIMIT, commits, healthy, nothing_lost, timeline, writing};

#[test]
fn an_agent_frozen_briefly_or_killed_costs_no_session() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    let postmaster = cluster.pids(primary, Part::Postmaster).unwrap();
    let before = (ended_sessions(&writer.so_far(), primary), writer.so_far().failures().len());

    cluster.freeze(primary, Part::Agent).unwrap();
    commits(&writer, 100);
    cluster.thaw(primary, Part::Agent).unwrap();
    leads_again(&cluster, primary);

    let killed = cluster.pids(primary, Part::Agent).unwrap();
    cluster.signal(primary, Part::Agent, rustix::process::Signal::KILL).unwrap();
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
