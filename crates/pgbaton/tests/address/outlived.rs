//! Whoever can do nothing any more does not keep the address: the kernel ends it.

use pgbaton_testkit::cluster::{Cluster, Part};
use rustix::process::Signal;

use crate::ground::{addresses, cluster, namespaces, never_twice, section, wait_answers, wait_held, watches};
use crate::{LIMIT, others};

#[test]
fn a_frozen_agent_and_a_killed_member_lose_the_address_before_another_has_it() {
    let Some(mut cluster) = cluster(section("")) else { return };
    let watches = watches(&cluster);
    let first = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watches, first);

    cluster.freeze(first, Part::Agent).unwrap();
    let second = next_primary(&cluster, first);
    wait_held(&cluster, &watches, second);
    wait_answers(&cluster, second);
    cluster.thaw(first, Part::Agent).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_held(&cluster, &watches, second);

    // All its processes at once, as by the out-of-memory killer: its host, and the interface with the address, go on.
    cluster.kill_member(second).unwrap();
    let third = next_primary(&cluster, second);
    wait_held(&cluster, &watches, third);
    wait_answers(&cluster, third);
    cluster.start(second).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    never_twice(&watches);
}

#[test]
fn an_agent_that_comes_back_goes_on_with_the_address() {
    let Some(cluster) = cluster(section("")) else { return };
    let watches = watches(&cluster);
    let primary = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watches, primary);
    wait_answers(&cluster, primary);
    let before = watches.each_ref().map(|watch| watch.so_far().changes.len());
    kill_agent(&cluster, primary);
    // Somebody takes it away; it comes back with a renewal.
    for address in addresses(&cluster) {
        let namespace = &namespaces(&cluster)[primary];
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        let done = std::process::Command::new("ip")
            .args(["-n", namespace, "address", "del", &format!("{address}/{prefix}"), "dev", "eth0"])
            .status()
            .unwrap();
        assert!(done.success());
    }
    wait_held(&cluster, &watches, primary);
    wait_answers(&cluster, primary);
    for (watch, before) in watches.iter().zip(before) {
        let changes = watch.so_far().changes;
        let holders: Vec<_> = changes[before..].iter().map(|(_, holders)| holders.clone()).collect();
        assert!(
            holders.is_empty() || holders == [vec![], vec![primary]],
            "the agent's end took the address away: {holders:?}"
        );
    }
    let log = std::fs::read_to_string(cluster.log_path(primary)).unwrap();
    assert!(log.contains("somebody has taken the virtual address away: put it back"), "{log}");
}

/// The primary that is not `old`.
fn next_primary(cluster: &Cluster, old: usize) -> usize {
    cluster
        .awaiting("another primary", LIMIT, || {
            let states = cluster.states()?;
            let new = others(old).into_iter().find(|member| states[*member].is_primary());
            Ok(new.ok_or_else(|| format!("{states:?}")))
        })
        .unwrap()
}

/// Kills the agent and waits until another one leads.
fn kill_agent(cluster: &Cluster, member: usize) {
    let killed = cluster.pids(member, Part::Agent).unwrap();
    cluster.signal(member, Part::Agent, Signal::KILL).unwrap();
    cluster
        .awaiting("an agent started anew that leads", LIMIT, || {
            let now = cluster.pids(member, Part::Agent)?;
            let leads = cluster.rest(member, "GET", "/primary", "", LIMIT).is_ok_and(|answer| answer.status == 200);
            Ok(if now.len() == 1 && now != killed && leads { Ok(()) } else { Err(format!("{now:?}")) })
        })
        .unwrap();
}
