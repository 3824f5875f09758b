//! Hosts in namespaces, and links that are cut. Without root there are no namespaces: then the tests show that the
//! refusal is understood.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pgbaton_testkit::netns::NetworkError;
use pgbaton_testkit::{Host, HostProgram, Launch, Network, user, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// Long enough for an answer over a bridge of this machine, short enough to wait for its absence.
const ANSWER: Duration = Duration::from_secs(1);

fn network(hosts: u8) -> Option<Network> {
    match Network::new(hosts) {
        Ok(network) => Some(network),
        Err(NetworkError::Refused { .. }) if !user::is_root() => None,
        Err(error) => panic!("{error}"),
    }
}

/// A listener on the host that greets everybody with one byte.
fn greeter(network: &Network, host: u8) -> (Host, SocketAddr) {
    let program = HostProgram::at(env!("CARGO_BIN_EXE_pgbaton-host")).inside(&network.namespace(host));
    let mut greeter = Host::start("greeter", &program).unwrap();
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 7000, Listen => 5, ReuseAddr => 1) or die; \
                  while (my $c = $s->accept) { print $c 'x'; close $c }";
    greeter.launch(&Launch::new("perl", "/dev/null").args(["-e", script])).unwrap();
    (greeter, SocketAddr::from((network.address(host), 7000)))
}

fn greeted(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(ANSWER)).map_err(|error| error.to_string())?;
    stream.read_exact(&mut [0]).map_err(|error| error.to_string())
}

#[test]
fn a_cut_link_loses_packets_and_a_healed_one_does_not() {
    let Some(network) = network(2) else { return };
    let (_one, first) = greeter(&network, 1);
    let (_two, second) = greeter(&network, 2);
    for address in [first, second] {
        wait::until("a greeting", LIMIT, || greeted(address)).unwrap();
    }

    network.cut(1).unwrap();
    let refusal = greeted(first).unwrap_err();
    assert!(!refusal.contains("refused"), "a lost host does not answer: {refusal}");
    greeted(second).unwrap();

    network.heal(1).unwrap();
    wait::until("a greeting over the healed link", LIMIT, || greeted(first)).unwrap();
}

#[test]
fn two_networks_at_once_do_not_meet_and_leave_nothing_behind() {
    let (Some(one), Some(two)) = (network(1), network(1)) else { return };
    assert_ne!(one.address(1), two.address(1));
    let names = [one.namespace(1), two.namespace(1)];
    drop((one, two));
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(&name).exists(), "namespace {name} is left");
    }
}
