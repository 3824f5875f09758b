//! Addresses on real interfaces of the kernel, in network namespaces. Without root there are none: then the tests show that the refusal is
//! understood.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use pgbaton_address::{Keeper, ManagedBy, Prefixed, Scripts, Settings, Status};
use pgbaton_testkit::address_watch::has_address;
use pgbaton_testkit::netns::NetworkError;
use pgbaton_testkit::{Network, TempDir, clock, user, wait};
use pgbaton_types::Epoch;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const LIMIT: Duration = Duration::from_secs(20);
/// The reign of all tests.
const EPOCH: Epoch = Epoch(5);

fn network(hosts: u8) -> Option<Network> {
    match Network::new(hosts) {
        Ok(network) => Some(network),
        Err(NetworkError::Refused { .. }) if !user::is_root() => None,
        Err(error) => panic!("{error}"),
    }
}

/// The addresses that are not a host's own: one of each kind.
fn virtual_addresses(network: &Network) -> Vec<Prefixed> {
    let (four, six) = (network.address(200), network.address6(200));
    vec![Prefixed { ip: four.into(), prefix: 24 }, Prefixed { ip: six.into(), prefix: 64 }]
}

fn settings(interface: &str, addresses: Vec<Prefixed>) -> Settings {
    Settings {
        name: "test".to_owned(),
        interface: interface.to_owned(),
        addresses,
        managed_by: ManagedBy::Pgbaton,
        announce_interval: Duration::from_secs(1),
        state_file: None,
        scripts: Scripts { within: Duration::from_secs(5), ..Scripts::default() },
    }
}

/// A keeper on a host: a thread is in the namespace of whoever started it.
fn keeper(network: &Network, host: u8, settings: Settings) -> Keeper {
    let path = format!("/run/netns/{}", network.namespace(host));
    let start = move || {
        let namespace = File::open(path).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Keeper::start(settings).unwrap()
    };
    std::thread::spawn(start).join().unwrap()
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until all of these are on a host's interface, or none is.
fn wait_for(network: &Network, host: u8, addresses: &[Prefixed], there: bool) {
    let namespace = network.namespace(host);
    wait::until(&format!("addresses on host {host}: {there}"), LIMIT, || {
        let seen: Vec<bool> = addresses.iter().map(|address| has_address(&namespace, address.ip)).collect();
        if seen.iter().all(|has| *has == there) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
}

fn wait_status(keeper: &Keeper, what: &str, good: impl Fn(&Status) -> bool) -> Status {
    wait::until(what, LIMIT, || {
        let status = keeper.status();
        if good(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .unwrap()
}

fn released(keeper: &Keeper) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(keeper.release().within(LIMIT))
}

/// What a neighbour believes to be the hardware address behind an address; none: it knows nothing of it.
fn neighbour(network: &Network, address: IpAddr) -> Option<String> {
    let line = ip(&format!("neigh show {address} dev {}", network.bridge()));
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "lladdr")?;
    words.get(at + 1).map(|word| (*word).to_owned())
}

fn hardware(network: &Network, host: u8) -> String {
    let line = ip(&format!("-n {} -o link show eth0", network.namespace(host)));
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").unwrap();
    words[at + 1].to_owned()
}

#[test]
fn addresses_move_and_their_neighbours_learn_it() {
    let Some(network) = network(2) else { return };
    let addresses = virtual_addresses(&network);
    let [one, two] = [1, 2].map(|host| keeper(&network, host, settings("eth0", addresses.clone())));
    one.hold(EPOCH, clock::now() + Duration::from_secs(60));
    wait_for(&network, 1, &addresses, true);
    let shown = ip(&format!("-n {} address show dev eth0", network.namespace(1)));
    let six = shown.lines().find(|line| line.contains(&addresses[1].to_string()));
    assert!(shown.contains("valid_lft 5") && six.is_some_and(|line| !line.contains("tentative")), "{shown}");
    // Each asks once, and from then on believes what it hears.
    for address in &addresses {
        let refused = TcpStream::connect_timeout(&SocketAddr::new(address.ip, 7), LIMIT).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the host does not answer for {address}");
        assert_eq!(neighbour(&network, address.ip), Some(hardware(&network, 1)));
    }
    assert!(released(&one));
    wait_for(&network, 1, &addresses, false);
    two.hold(Epoch(6), clock::now() + Duration::from_secs(60));
    for address in &addresses {
        let expected = Some(hardware(&network, 2));
        wait::until("the neighbour's new belief", LIMIT, || match neighbour(&network, address.ip) {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .unwrap();
    }
}

#[test]
fn an_address_that_nobody_prolongs_is_gone_by_its_end() {
    let Some(network) = network(1) else { return };
    let addresses = virtual_addresses(&network);
    let keeper = keeper(&network, 1, settings("eth0", addresses.clone()));
    let end = clock::now() + Duration::from_millis(4_200);
    keeper.hold(EPOCH, end);
    wait_for(&network, 1, &addresses, true);
    // Others come and go meanwhile: each makes the kernel look, and not again for a second.
    let mut number = 0;
    wait::until("the end of the address", LIMIT, || {
        number += 1;
        ip(&format!("-n {} address add 10.77.0.{number}/32 dev eth0", network.namespace(1)));
        if clock::now().reached(end) { Ok(()) } else { Err("it is still to come".to_owned()) }
    })
    .unwrap();
    for address in &addresses {
        assert!(!has_address(&network.namespace(1), address.ip), "{address} outlived its end");
    }
    wait_status(&keeper, "the keeper's word of it", |status| status.present.is_empty());
    // A later end brings it back.
    keeper.prolong(EPOCH, clock::now() + Duration::from_secs(60));
    wait_for(&network, 1, &addresses, true);
    keeper.prolong(Epoch(9), clock::now() + Duration::from_secs(60));
    assert!(released(&keeper));
    keeper.prolong(EPOCH, clock::now() + Duration::from_secs(60));
    assert!(released(&keeper));
    wait_for(&network, 1, &addresses, false);
}

#[test]
fn what_somebody_takes_away_is_put_back_and_what_somebody_puts_there_is_left() {
    let Some(network) = network(1) else { return };
    let addresses = virtual_addresses(&network);
    let namespace = network.namespace(1);
    let keeper = keeper(&network, 1, settings("eth0", addresses.clone()));
    keeper.hold(EPOCH, clock::now() + Duration::from_secs(60));
    wait_for(&network, 1, &addresses, true);
    for address in &addresses {
        ip(&format!("-n {namespace} address del {address} dev eth0"));
    }
    wait_for(&network, 1, &addresses, false);
    keeper.prolong(EPOCH, clock::now() + Duration::from_secs(70));
    wait_for(&network, 1, &addresses, true);
    assert!(released(&keeper));

    let address = addresses[0];
    ip(&format!("-n {namespace} address add {address} dev eth0"));
    keeper.hold(Epoch(6), clock::now() + Duration::from_secs(60));
    let told = format!("{address} is on 'eth0' without a lifetime");
    let status = wait_status(&keeper, "its word of a foreign address", |status| !status.problems.is_empty());
    assert!(status.problems[0].starts_with(&told), "{status:?}");
    assert!(released(&keeper));
    assert!(has_address(&namespace, address.ip), "somebody else's address was taken away");
}

#[test]
fn what_an_agent_has_left_behind_is_gone_on_with_or_taken_away() {
    let Some(network) = network(1) else { return };
    let addresses = virtual_addresses(&network);
    let start = || keeper(&network, 1, settings("eth0", addresses.clone()));
    let leave = || {
        for address in &addresses {
            let namespace = network.namespace(1);
            ip(&format!("-n {namespace} address replace {address} dev eth0 valid_lft 100 preferred_lft 0"));
        }
    };
    // Told to leave things as they are: it holds what it finds, and nothing that it does not.
    let finds_nothing = start();
    finds_nothing.keep(EPOCH, clock::now() + Duration::from_secs(60));
    finds_nothing.prolong(EPOCH, clock::now() + Duration::from_secs(60));
    assert!(released(&finds_nothing));
    assert_eq!(finds_nothing.status(), Status::default());
    drop(finds_nothing);
    leave();
    let goes_on = start();
    goes_on.keep(EPOCH, clock::now() + Duration::from_secs(60));
    wait_status(&goes_on, "an address that was found", |status| {
        status.held == Some(EPOCH) && status.present.len() == 2
    });
    assert!(released(&goes_on));
    drop(goes_on);
    leave();
    assert!(released(&start()));
    wait_for(&network, 1, &addresses, false);
}

#[test]
fn an_interface_that_is_not_there_is_named_with_what_to_do() {
    let address = Prefixed { ip: "10.213.255.9".parse().unwrap(), prefix: 24 };
    let keeper = Keeper::start(settings("nosuch0", vec![address])).unwrap();
    keeper.hold(EPOCH, clock::now() + Duration::from_secs(60));
    let status = wait_status(&keeper, "a problem", |status| !status.problems.is_empty());
    let told = "there is no network interface 'nosuch0': correct address.interface (`ip link` shows those there are), or bring it up";
    assert_eq!((status.problems[0].as_str(), status.present.len()), (told, 0));
    assert!(released(&keeper), "nothing has to be taken away where nothing can be");
}

#[test]
fn missing_rights_are_named_with_what_to_do() {
    let address = Prefixed { ip: "10.213.255.9".parse().unwrap(), prefix: 24 };
    let start = move || {
        if user::is_root() {
            rustix::thread::set_capabilities(
                None,
                rustix::thread::CapabilitySets {
                    effective: rustix::thread::CapabilitySet::empty(),
                    permitted: rustix::thread::CapabilitySet::empty(),
                    inheritable: rustix::thread::CapabilitySet::empty(),
                },
            )
            .unwrap();
        }
        Keeper::start(settings("lo", vec![address])).unwrap()
    };
    let keeper = std::thread::spawn(start).join().unwrap();
    // Whoever does not lead is told before it has to.
    assert!(released(&keeper));
    let waits = wait_status(&keeper, "a problem", |status| !status.problems.is_empty());
    keeper.hold(EPOCH, clock::now() + Duration::from_secs(60));
    let holds = wait_status(&keeper, "a problem of the holder", |status| status.held.is_some());
    for status in [waits, holds] {
        let unit = "in its systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW";
        let change = format!("the agent may not change addresses of 'lo': it needs the right CAP_NET_ADMIN; {unit}");
        assert_eq!(status.problems[0], change);
        assert!(status.problems[1].starts_with("the agent may not announce addresses on 'lo', so that"), "{status:?}");
        assert!(status.present.is_empty());
    }
}

#[test]
fn scripts_run_in_order_and_a_slow_one_holds_nobody_up() {
    let directory = TempDir::new("address", &pgbaton_testkit::OsUser::for_servers().unwrap()).unwrap();
    let (log, gate) = (directory.path().join("log"), directory.path().join("gate"));
    let script = |tag: &str| {
        Some(
            ["sh", "-c", "echo \"$@\" >> \"$0\""]
                .map(str::to_owned)
                .into_iter()
                .chain([log.display().to_string(), tag.to_owned()])
                .collect(),
        )
    };
    let mut settings = settings("eth9", vec![Prefixed { ip: "10.0.0.9".parse().unwrap(), prefix: 24 }]);
    settings.managed_by = ManagedBy::Scripts;
    settings.state_file = Some(directory.path().join("state"));
    settings.scripts = Scripts {
        notify: script("notify"),
        // It ends when it may, and fails: the next ones are run all the same.
        notify_master: Some(
            ["sh", "-c", "until test -e \"$0\"; do sleep 0.1; done; exit 1", &gate.display().to_string()]
                .map(str::to_owned)
                .into(),
        ),
        notify_backup: script("backup"),
        notify_stop: script("stop"),
        up: script("up"),
        down: script("down"),
        extra: Some("x".to_owned()),
        priority: 100,
        within: LIMIT,
        ..Scripts::default()
    };
    let keeper = Keeper::start(settings).unwrap();
    assert!(released(&keeper));
    keeper.hold(EPOCH, clock::now() + Duration::from_secs(60));
    // While the script goes on.
    wait_status(&keeper, "the address", |status| status.held == Some(EPOCH));
    assert!(released(&keeper));
    std::fs::write(&gate, "").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert!(runtime.block_on(keeper.finish().within(LIMIT)));
    let lines = std::fs::read_to_string(&log).unwrap();
    let expected = "down eth9 10.0.0.9 x\nbackup\nnotify INSTANCE test BACKUP 100\nup eth9 10.0.0.9 x\nnotify INSTANCE test MASTER 100\n\
                    down eth9 10.0.0.9 x\nbackup\nnotify INSTANCE test BACKUP 100\nstop\nnotify INSTANCE test STOP 100\n";
    assert_eq!(lines, expected);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!([read("state"), read("state.epoch")], ["-254\n", "5\n"]);
}

#[test]
fn a_script_that_does_not_end_is_killed_and_the_next_one_runs() {
    let directory = TempDir::new("address", &pgbaton_testkit::OsUser::for_servers().unwrap()).unwrap();
    let log = directory.path().join("log");
    let mut settings = settings("eth9", vec![Prefixed { ip: "10.0.0.9".parse().unwrap(), prefix: 24 }]);
    settings.managed_by = ManagedBy::Scripts;
    // Many times longer than anything here may take.
    settings.scripts.notify_master = Some(["sleep", "600"].map(str::to_owned).into());
    settings.scripts.notify_stop =
        Some(["sh", "-c", "echo stop > \"$0\"", &log.display().to_string()].map(str::to_owned).into());
    let keeper = Keeper::start(settings).unwrap();
    keeper.hold(EPOCH, clock::now() + Duration::from_secs(60));
    wait_status(&keeper, "the address", |status| status.held == Some(EPOCH));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert!(runtime.block_on(keeper.finish().within(LIMIT)));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "stop\n");
}
