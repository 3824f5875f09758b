//! A running cluster moves from its embedded store to etcd and back: nothing is lost, no server is restarted, no epoch comes again.

use std::path::Path;
use std::process::Command;

use pgbaton_testkit::Cluster;
use pgbaton_testkit::cluster::{Part, StoreKind};
use pgbaton_testkit::{Launch, Process};
use rustix::process::Pid;

use super::pause::{knows_its_server, pause};
use super::{LIMIT, commits, healthy, nothing_lost, others, timeline, writing};

#[test]
fn a_running_cluster_moves_to_etcd_and_back() {
    let mut cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let writer = writing(&cluster);
    let servers = postmasters(&cluster);
    let mut epochs = vec![epoch(&cluster, primary)];

    pause(&cluster, primary, true);
    let keys = cluster.socket_dir(0).join("keys.json");
    store(&cluster, &["export", keys.to_str().unwrap()]);
    cluster.name_store(StoreKind::Etcd(1)).unwrap();
    store(&cluster, &["import", keys.to_str().unwrap()]);
    take_it(&cluster, primary);
    epochs.push(epoch(&cluster, primary));
    commits(&writer, 100);

    // From etcd to an embedded store that has nothing yet: witnesses on the hosts are its voters until the agents are.
    pause(&cluster, primary, true);
    let keys = cluster.socket_dir(0).join("keys-of-etcd.json");
    store(&cluster, &["export", keys.to_str().unwrap()]);
    cluster.name_store(StoreKind::Embedded).unwrap();
    for member in 0..cluster.size() {
        std::fs::remove_dir_all(cluster.raft_dir(member)).unwrap();
    }
    let witnesses: Vec<Process> = (0..cluster.size()).map(|member| witness(&cluster, member)).collect();
    cluster
        .awaiting("an import into the new store", LIMIT, || {
            let done = pgbaton(&cluster, &["store", "import", keys.to_str().unwrap()]);
            Ok(if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) })
        })
        .unwrap();
    drop(witnesses);
    take_it(&cluster, primary);
    epochs.push(epoch(&cluster, primary));
    commits(&writer, 100);

    assert!(epochs.is_sorted() && epochs[0] < epochs[2], "an epoch came again: {epochs:?}");
    assert_eq!(postmasters(&cluster), servers, "a server was restarted");
    assert_eq!(timeline(&cluster, primary), 1, "a standby was promoted");
    nothing_lost(&cluster, &writer, primary);
}

/// The agents begin anew with the store that their files name, and the cluster is whole again.
fn take_it(cluster: &Cluster, primary: usize) {
    let before: Vec<Vec<Pid>> = (0..cluster.size()).map(|member| cluster.pids(member, Part::Agent).unwrap()).collect();
    for member in 0..cluster.size() {
        let answer = cluster.rest(member, "POST", "/reload", "", LIMIT).unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    for (member, before) in before.iter().enumerate() {
        cluster
            .awaiting("another agent", LIMIT, || {
                let now = cluster.pids(member, Part::Agent)?;
                Ok(if now.len() == 1 && now != *before { Ok(()) } else { Err(format!("{now:?}")) })
            })
            .unwrap();
        knows_its_server(cluster, member);
    }
    pause(cluster, primary, false);
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), primary);
    for other in others(primary) {
        assert_eq!(cluster.rest(other, "GET", "/explain", "", LIMIT).unwrap().json()["paused"], false);
    }
}

fn postmasters(cluster: &Cluster) -> Vec<Vec<Pid>> {
    (0..cluster.size()).map(|member| cluster.pids(member, Part::Postmaster).unwrap()).collect()
}

fn epoch(cluster: &Cluster, primary: usize) -> u64 {
    let explained = cluster.rest(primary, "GET", "/explain", "", LIMIT).unwrap().json();
    explained["epoch"].as_u64().unwrap_or_else(|| panic!("no epoch: {explained}"))
}

fn pgbaton(cluster: &Cluster, arguments: &[&str]) -> std::process::Output {
    Command::new(cluster.program()).arg("-c").arg(cluster.config(0)).args(arguments).output().unwrap()
}

fn store(cluster: &Cluster, arguments: &[&str]) {
    let done = pgbaton(cluster, &[&["store"], arguments].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn witness(cluster: &Cluster, member: usize) -> Process {
    let log = cluster.log_path(member);
    let config = cluster.config(member).display().to_string();
    let user = pgbaton_testkit::OsUser::for_servers().unwrap();
    let launch = Launch::new(Path::new(cluster.program()), log).args(["witness", config.as_str()]).user(&user);
    Process::start(&launch).unwrap()
}
