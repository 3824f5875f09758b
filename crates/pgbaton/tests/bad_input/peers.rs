//! Members that do not find together: they say why, and go on waiting.

use std::net::TcpListener;

use crate::ground::Ground;

/// The section of the store for a member at one port whose only partner is at that address.
pub(crate) fn raft(own: u16, partner: &str, password: &str) -> String {
    format!("raft:\n  self_addr: 127.0.0.1:{own}\n  partner_addrs: ['{partner}']\n  password: {password}\n")
}

#[test]
fn a_peer_that_is_not_there_and_one_with_another_password_are_named() {
    let mut ground = Ground::new();
    let (store_a, store_b) = (ground.port(4), ground.port(5));
    let (at_a, at_b) = (format!("127.0.0.1:{store_a}"), format!("127.0.0.1:{store_b}"));
    let yaml_a = ground.yaml("a", 0).replace("raft:\n", &raft(store_a, &at_b, "one"));
    let yaml_b = ground.yaml("b", 2).replace("raft:\n", &raft(store_b, &at_a, "another"));
    let a = ground.start("a", &yaml_a);
    a.wait_for_words(&["the embedded store is waiting to be formed", &at_b]);
    let b = ground.start("b", &yaml_b);
    for member in [&a, &b] {
        member.wait_for_words(&["the password in raft.password differs"]);
    }
    assert!(!ground.path("a-data").join("PG_VERSION").exists(), "a cluster was made without the other member");
    ground.assert_running(&a);
    ground.assert_running(&b);

    // With the right password they find together without a restart of the one that was right.
    ground.stop(&b);
    let right = format!("{}tags: {{nofailover: true}}\n", yaml_b.replace("password: another", "password: one"));
    let b = ground.start("b", &right);
    ground.wait_leader("a", 0, &a);
    ground.assert_running(&b);
    ground.host.kill_all().unwrap();
}

#[test]
fn a_partners_name_without_an_address_and_an_address_of_something_else_are_named() {
    let mut ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        use std::io::Write as _;
        // Something that greets: a mail server, for example. Ends with the member that asks.
        let (mut asking, _) = listener.accept().unwrap();
        asking.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
    });
    let store = ground.port(4);
    let yaml = ground.yaml("a", 0);
    let nobody = ground.start("a", &yaml.replace("raft:\n", &raft(store, "no-such-host.invalid:2380", "one")));
    nobody.wait_for_words(&["the embedded store is waiting to be formed", "no-such-host.invalid:2380"]);
    ground.assert_running(&nobody);
    ground.stop(&nobody);
    let mail = ground.start("a", &yaml.replace("raft:\n", &raft(store, &other, "one")));
    mail.wait_for_words(&["the embedded store is waiting to be formed", &other]);
    answering.join().unwrap();
    ground.assert_running(&mail);
    ground.stop(&mail);
    assert!(!ground.path("a-data").join("PG_VERSION").exists(), "a cluster was made without the other member");
}
