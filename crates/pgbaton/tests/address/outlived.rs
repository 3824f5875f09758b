//! Whoever can do nothing any more does not keep the address: the kernel ends it.

use pgbaton_testkit::AddressWatch;
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
    wait_held(&cluster, &watches, third);

    cluster.cut(third).unwrap();
    let fourth = next_primary(&cluster, third);
    wait_held(&cluster, &watches, fourth);
    cluster.heal(third).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    wait_answers(&cluster, fourth);
    never_twice(&watches);
}

#[test]
fn in_a_pause_the_address_lasts_as_long_as_the_lease() {
    let Some(cluster) = cluster(section("")) else { return };
    let watches = watches(&cluster);
    let primary = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watches, primary);
    let answer = cluster.rest(primary, "PATCH", "/config", "{\"pause\": true}", LIMIT).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster
        .awaiting("the pause", LIMIT, || {
            let explained = cluster.rest(primary, "GET", "/explain", "", LIMIT)?.json();
            Ok(if explained["paused"] == true { Ok(()) } else { Err(explained.to_string()) })
        })
        .unwrap();
    wait_held(&cluster, &watches, primary);

    // Without the others nobody can renew a lease.
    for other in others(primary) {
        cluster.freeze(other, Part::Agent).unwrap();
    }
    cluster
        .awaiting("the end of the address", LIMIT, || {
            let holders = watches.each_ref().map(AddressWatch::holders);
            Ok(if holders.iter().all(Vec::is_empty) { Ok(()) } else { Err(format!("{holders:?}")) })
        })
        .unwrap();
    assert!(cluster.states().unwrap()[primary].is_primary(), "a paused primary goes on");
    for other in others(primary) {
        cluster.thaw(other, Part::Agent).unwrap();
    }
    wait_held(&cluster, &watches, primary);
    wait_answers(&cluster, primary);
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
