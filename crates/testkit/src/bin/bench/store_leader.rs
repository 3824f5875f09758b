//! Has the host of the primary lead pgbaton's own store as well: the worst host to lose.
//!
//! The store moves its leadership off the host that holds the lease, at most once a minute. So whoever else leads is frozen for
//! an election until the primary's host leads and has used up its minute. A voter draws the time after which it stands for election anew
//! only when it stands: one that drew a long time never would, and so its agent is killed now and then, which costs no session.

use std::time::Duration;

use pgbaton_testkit::wait;
use rustix::process::Signal;

use crate::Outcome;
use crate::cluster::Cluster;

/// Longest wait for an election of the store.
const ELECTION: Duration = Duration::from_secs(15);

/// How long the primary's host must have led before it counts as staying: the store looks at it ten times in a second.
const STAYS: Duration = Duration::from_millis(600);

/// Elections that are tried; each goes to either of two hosts, and the right one has to win twice: after the first time it gives the
/// leadership away. Twenty have been too few.
const ELECTIONS_MAX: usize = 60;

/// After so many that the primary's host has lost, its voter draws anew.
const LOST_MAX: usize = 3;

/// Returns when the host of the `primary` leads the store and keeps leading it.
pub(crate) fn make(cluster: &mut Cluster<'_>, primary: usize) -> Outcome {
    let mut lost = 0;
    for _ in 0..ELECTIONS_MAX {
        let leader = leader_but(cluster, None)?;
        if leader != primary {
            lost += 1;
            if lost > LOST_MAX {
                lost = 0;
                draw_anew(cluster, primary)?;
            }
            cluster.signal_agent(leader, Signal::STOP)?;
            let elected = leader_but(cluster, Some(leader));
            cluster.signal_agent(leader, Signal::CONT)?;
            elected?;
            continue;
        }
        lost = 0;
        // waits: that nothing happens within this time is what is asked.
        std::thread::sleep(STAYS);
        if leader_but(cluster, None)? == primary {
            return Ok(());
        }
    }
    Err(format!("the primary's host did not come to lead the store in {ELECTIONS_MAX} elections").into())
}

/// Kills the agent of the `primary` and waits until the next one holds the lease.
fn draw_anew(cluster: &mut Cluster<'_>, primary: usize) -> Outcome {
    // Right after a renewal: what is left of a short lease after an election of the store might not be enough for the next agent.
    let mut left = u64::MAX;
    wait::until("a renewal of the lease", ELECTION, || {
        let answer = cluster.ask(primary, "/explain").map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut left, answer["lease"]["remaining_ms"].as_u64().unwrap_or(u64::MAX));
        if left != u64::MAX && left > before { Ok(()) } else { Err(answer.to_string()) }
    })?;
    let before = cluster.agent(primary)?;
    cluster.signal_agent(primary, Signal::KILL)?;
    wait::until("another agent of the primary, with its lease", ELECTION, || {
        let agent = cluster.agent(primary).map_err(|error| error.to_string())?;
        let answer = cluster.ask(primary, "/explain").map_err(|error| error.to_string())?;
        let well = agent != before && answer["lease"]["remaining_ms"].is_u64();
        if well { Ok(()) } else { Err(answer.to_string()) }
    })?;
    Ok(())
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
