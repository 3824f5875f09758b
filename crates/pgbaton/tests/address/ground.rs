//! A cluster in namespaces with a virtual address of each kind, and somebody who looks.

use std::net::{IpAddr, SocketAddr};

use pgbaton_testkit::cluster::{Cluster, Options, Place};
use pgbaton_testkit::{AddressWatch, user};

use crate::{LIMIT, options, prepared};

/// The last number of the virtual addresses.
const HOST: u8 = 200;

/// The section of the virtual address, with its own lines after it.
pub(crate) fn section(more: &str) -> String {
    format!(
        "  interface: eth0\n  addresses: [{{network}}.200/24, '{{network6}}::c8/64']\n  announce_interval: 2\n{more}"
    )
}

/// Members that may change addresses; none without root, who alone can make namespaces.
pub(crate) fn cluster(section: String) -> Option<Cluster> {
    if !user::is_root() {
        return None;
    }
    let place = Place::Namespaces;
    let virtual_address = Some(section);
    let mut cluster = prepared(Options { place, virtual_address, network_rights: true, ..options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    Some(cluster)
}

/// Both addresses.
pub(crate) fn addresses(cluster: &Cluster) -> [IpAddr; 2] {
    let network = cluster.network().unwrap();
    [network.address(HOST).into(), network.address6(HOST).into()]
}

/// Where clients find the primary.
pub(crate) fn servers(cluster: &Cluster) -> [SocketAddr; 2] {
    addresses(cluster).map(|ip| SocketAddr::new(ip, cluster.postgres_port(0)))
}

pub(crate) fn namespaces(cluster: &Cluster) -> Vec<String> {
    let network = cluster.network().unwrap();
    network.hosts().map(|host| network.namespace(host)).collect()
}

/// One that looks for each address.
pub(crate) fn watches(cluster: &Cluster) -> [AddressWatch; 2] {
    addresses(cluster).map(|address| AddressWatch::start(namespaces(cluster), address))
}

/// Waits until this member, and no other, has both.
pub(crate) fn wait_held(cluster: &Cluster, watches: &[AddressWatch; 2], member: usize) {
    cluster
        .awaiting(&format!("the addresses at {}", cluster.name(member)), LIMIT, || {
            let holders = watches.each_ref().map(AddressWatch::holders);
            Ok(if holders.iter().all(|who| *who == [member]) { Ok(()) } else { Err(format!("{holders:?}")) })
        })
        .unwrap();
}

/// Never did two hosts have one of them.
pub(crate) fn never_twice(watches: &[AddressWatch; 2]) {
    for watch in watches {
        let seen = watch.so_far();
        assert_eq!(seen.twice, None, "two hosts had the address: {seen:?}");
    }
}

/// Whose server answers at an address: asked over a new connection.
pub(crate) fn who_answers(cluster: &Cluster, server: SocketAddr) -> Option<usize> {
    let rows = cluster.sql_at(server, "SELECT current_setting('data_directory'), pg_is_in_recovery()").ok()?;
    let (directory, recovery) = (rows[0][0].clone()?, rows[0][1].clone()?);
    assert_eq!(recovery, "f", "a client was led to a standby");
    (0..cluster.size()).find(|member| cluster.data_dir(*member).display().to_string() == directory)
}

/// Waits until clients that ask by either address get to this member.
pub(crate) fn wait_answers(cluster: &Cluster, member: usize) {
    for server in servers(cluster) {
        cluster
            .awaiting(&format!("{} behind {server}", cluster.name(member)), LIMIT, || {
                let found = who_answers(cluster, server);
                Ok(if found == Some(member) { Ok(()) } else { Err(format!("{found:?}")) })
            })
            .unwrap();
    }
}
