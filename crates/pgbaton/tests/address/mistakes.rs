//! An address that cannot be had keeps nobody from starting or leading, and is said with what to do.

use pgbaton_testkit::cluster::Options;

use crate::{LIMIT, options, prepared};

/// A single member with this section, which leads; gives what it says about itself.
fn caveats(section: &str) -> Vec<String> {
    let virtual_address = Some(section.to_owned());
    let mut cluster = prepared(Options { members: 1, virtual_address, ..options() });
    cluster.start_all().unwrap();
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), 0);
    let caveats = cluster
        .awaiting("a word about the address", LIMIT, || {
            let explained = cluster.rest(0, "GET", "/explain", "", LIMIT)?.json();
            let caveats = explained["caveats"].as_array().into_iter().flatten();
            let about: Vec<String> = caveats
                .filter_map(|caveat| caveat.as_str()?.strip_prefix("virtual address: ").map(str::to_owned))
                .collect();
            Ok(if about.is_empty() { Err(explained.to_string()) } else { Ok(about) })
        })
        .unwrap();
    let log = std::fs::read_to_string(cluster.log_path(0)).unwrap();
    for caveat in &caveats {
        let text = caveat.split(':').next().unwrap_or_default();
        assert!(log.contains(text), "{text} is not in the log: {log}");
    }
    caveats
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let told = caveats("  interface: nosuch0\n  addresses: [10.213.255.9/24]\n");
    let expected = "there is no network interface 'nosuch0': correct address.interface (`ip link` shows those there are), or bring it up";
    assert!(told.iter().any(|caveat| caveat == expected), "{told:?}");
}

#[test]
fn an_agent_without_rights_leads_and_says_which_it_lacks() {
    let told = caveats("  interface: lo\n  addresses: [10.213.255.9/32]\n");
    let unit = "in its systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW";
    assert_eq!(
        told[0],
        format!("the agent may not change addresses of 'lo': it needs the right CAP_NET_ADMIN; {unit}")
    );
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn an_address_that_is_none_is_named() {
    let told = caveats("  interface: lo\n  addresses: [10.213.255.900/32]\n");
    let expected = "address.addresses[0]: '10.213.255.900/32' is no address of a host with the length of its prefix: \
                    write it as 10.0.0.9/24 or fd00::9/64";
    assert_eq!(told, [expected]);
}
