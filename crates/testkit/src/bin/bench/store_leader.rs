//! Has the host of the primary lead pgbaton's own store as well: the worst host to lose.
//!
//! The store moves its leadership off the host that holds the lease, at most once a minute. So whoever else leads is frozen for
//! an election until the primary's host leads and has used up its minute.

use std::time::Duration;

use pgbaton_testkit::wait;
use rustix::process::Signal;

use crate::Outcome;
use crate::cluster::Cluster;

/// Longest wait for an election of the store.
const ELECTION: Duration = Duration::from_secs(15);

/// How long the primary's host must have led before it counts as staying: the store looks at it ten times in a second.
const STAYS: Duration = Duration::from_millis(600);

/// Elections that are tried; each goes to either of two hosts.
const ELECTIONS_MAX: usize = 20;

/// Returns when the host of the `primary` leads the store and keeps leading it.
pub(crate) fn make(cluster: &mut Cluster<'_>, primary: usize) -> Outcome {
    for _ in 0..ELECTIONS_MAX {
        let leader = leader_but(cluster, None)?;
        if leader != primary {
            cluster.signal_agent(leader, Signal::STOP)?;
            let elected = leader_but(cluster, Some(leader));
            cluster.signal_agent(leader, Signal::CONT)?;
            elected?;
            continue;
        }
        // waits: that nothing happens within this time is what is asked.
        std::thread::sleep(STAYS);
        if leader_but(cluster, None)? == primary {
            return Ok(());
        }
    }
    Err(format!("the primary's host did not come to lead the store in {ELECTIONS_MAX} elections").into())
}

/// Which member leads the store, as it says itself; `frozen` is not asked.
fn leader_but(cluster: &Cluster<'_>, frozen: Option<usize>) -> Outcome<usize> {
    let found = wait::until("a leader of the store", ELECTION, || {
        let asked = (0..cluster.size()).filter(|index| Some(*index) != frozen);
        let answers: Vec<_> = asked.map(|index| (index, cluster.ask(index, "/explain"))).collect();
        let leads = |answer: &Outcome<serde_json::Value>| {
            answer.as_ref().is_ok_and(|document| document["store"]["leads"] == true)
        };
        let leader = answers.iter().find(|(_, answer)| leads(answer)).map(|(index, _)| *index);
        leader.ok_or_else(|| format!("{answers:?}"))
    })?;
    Ok(found)
}
