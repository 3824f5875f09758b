//! A switchover takes the address along, and everybody who follows it is told.

use std::path::Path;
use std::process::Command;

use pgbaton_testkit::AddressWatch;
use pgbaton_testkit::cluster::{Cluster, Part};

use crate::ground::{self, addresses, cluster, never_twice, wait_answers, wait_held, watches};
use crate::{LIMIT, others};

/// Writes its arguments into a file of the member's.
const TELLS: &str = "[sh, -c, 'echo \"$@\" >> \"$0\"', '{directory}/told'";

#[test]
fn a_switchover_takes_the_address_along_and_tells_whoever_follows_it() {
    let more = format!(
        "  state_file: '{{directory}}/state'\n  notify: {TELLS}]\n  notify_master: {TELLS}, master]\n  notify_stop: {TELLS}, stop]\n  \
         upscript: {TELLS}, up]\n  downscript: {TELLS}, down]\n  xparam: x\n"
    );
    let Some(mut cluster) = cluster(ground::section(&more)) else { return };
    let watches = watches(&cluster);
    let old = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watches, old);
    wait_answers(&cluster, old);
    only_the_agent_may(&cluster, old);

    let new = others(old)[0];
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_held(&cluster, &watches, new);
    knows_neighbour(&cluster, new);
    wait_answers(&cluster, new);
    wait_told(&cluster, new, "state", "0\n");
    for other in others(new) {
        wait_told(&cluster, other, "state", "-254\n");
    }
    let epoch = cluster.rest(new, "GET", "/explain", "", LIMIT).unwrap().json()["epoch"].clone();
    wait_told(&cluster, new, "state.epoch", &format!("{epoch}\n"));
    let explained = cluster.rest(new, "GET", "/explain", "", LIMIT).unwrap().json();
    assert!(!explained["caveats"].to_string().contains("virtual address"), "{explained}");

    // The agent of the primary ends: so does its address, before another has it.
    assert_eq!(cluster.stop_member(new, LIMIT).unwrap(), 0);
    let last = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watches, last);
    wait_answers(&cluster, last);
    never_twice(&watches);

    let [four, six] = addresses(&cluster);
    let name = cluster.name(new);
    let up = format!("up eth0 {four} x\nup eth0 {six} x\nmaster\nINSTANCE test MASTER 100\n");
    let down = format!("down eth0 {four} x\ndown eth0 {six} x\nINSTANCE test BACKUP 100\n");
    let told = read(&cluster, new, "told");
    assert_eq!(told, format!("{down}{up}{down}stop\nINSTANCE test STOP 100\n"), "what {name} told");
}

fn read(cluster: &Cluster, member: usize, name: &str) -> String {
    std::fs::read_to_string(cluster.socket_dir(member).join(name)).unwrap_or_default()
}

fn wait_told(cluster: &Cluster, member: usize, name: &str, wanted: &str) {
    cluster
        .awaiting(&format!("{wanted:?} in {name} of {}", cluster.name(member)), LIMIT, || {
            let found = read(cluster, member, name);
            Ok(if found == wanted { Ok(()) } else { Err(found) })
        })
        .unwrap();
}

/// The neighbours' tables lead to the new host before anybody has asked.
fn knows_neighbour(cluster: &Cluster, member: usize) {
    let network = cluster.network().unwrap();
    let namespace = &ground::namespaces(cluster)[member];
    let link = ip(&["-n", namespace, "-o", "link", "show", "eth0"]);
    let hardware = after(&link, "link/ether").unwrap();
    for address in addresses(cluster) {
        cluster
            .awaiting("the neighbour's new belief", LIMIT, || {
                let told = ip(&["neigh", "show", &address.to_string(), "dev", &network.bridge()]);
                let found = after(&told, "lladdr");
                Ok(if found.as_deref() == Some(&hardware) { Ok(()) } else { Err(told) })
            })
            .unwrap();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn after(line: &str, word: &str) -> Option<String> {
    line.split_whitespace().skip_while(|other| *other != word).nth(1).map(str::to_owned)
}

/// The rights that the agent has been given go no further than to it and the operator's scripts.
fn only_the_agent_may(cluster: &Cluster, member: usize) {
    let effective = |part| {
        let pid = cluster.pids(member, part).unwrap()[0].as_raw_nonzero();
        let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // CAP_NET_ADMIN and CAP_NET_RAW by their numbers (capabilities(7)).
    assert_eq!(effective(Part::Agent), 1 << 12 | 1 << 13);
    assert_eq!(effective(Part::Postmaster), 0, "the server has rights that are none of its business");
}

#[test]
fn ucarps_scripts_put_the_address_there_themselves() {
    let section = "  interface: eth0\n  addresses: [{network}.200/24]\n  managed_by: scripts\n  \
                   upscript: [sh, -c, 'ip address replace \"$1/24\" dev \"$0\"']\n  \
                   downscript: [sh, -c, 'ip address del \"$1/24\" dev \"$0\"']\n";
    let Some(cluster) = cluster(section.to_owned()) else { return };
    let [four, _] = addresses(&cluster);
    let watch = AddressWatch::start(ground::namespaces(&cluster), four);
    let wait_held = |member: usize| {
        cluster
            .awaiting(&format!("the address at {}", cluster.name(member)), LIMIT, || {
                let holders = watch.holders();
                Ok(if holders == [member] { Ok(()) } else { Err(format!("{holders:?}")) })
            })
            .unwrap();
    };
    let old = cluster.wait_primary(LIMIT).unwrap();
    wait_held(old);
    let new = others(old)[0];
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_held(new);
    // The first downscript of a host that never had it has nothing to take away: that is said, and harms nobody.
    let log = std::fs::read_to_string(cluster.log_path(new)).unwrap();
    assert!(log.contains("a script of the address failed"), "{log}");
}
