//! What is said about wrong files: input, message, line and column.

use pgbaton_config::{Diagnostic, LoadError, Loaded, Severity, load_text};

/// A file with nothing to say about it; cases put lines after it.
const GOOD: &str = "\
name: pg-1
scope: demo
restapi: {listen: '127.0.0.1:8008'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data/pg-1
  authentication: {replication: {username: replicator}}
";

fn load(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    load_text("m.yml", text).map_err(|error| match error {
        LoadError::Invalid { findings } => findings,
        other => panic!("{other}"),
    })
}

/// Lines put after the good file (which has 7), then severity, message, line, column.
type Case = (&'static str, Severity, &'static str, u64, u64);

const CASES: &[Case] = &[
    // Promises.
    (
        "bootstrap: {dcs: {synchronous_mode: on}}",
        Severity::Error,
        "bootstrap.dcs.synchronous_mode is set to 'on'",
        8,
        37,
    ),
    ("bootstrap:\n  dcs:\n    synchronous_mode: quorum", Severity::Error, "is set to 'quorum'", 10, 23),
    ("bootstrap: {dcs: {synchronous_mode_strict: true}}", Severity::Error, "synchronous_mode_strict is set", 8, 44),
    ("bootstrap: {dcs: {failsafe_mode: true}}", Severity::Error, "bootstrap.dcs.failsafe_mode is set", 8, 34),
    ("bootstrap: {dcs: {standby_cluster: {host: a}}}", Severity::Error, "standby clusters are not supported", 8, 36),
    ("synchronous_mode: true", Severity::Error, "synchronous_mode is set to 'true'", 8, 19),
    ("standby_cluster: {restore_command: x}", Severity::Error, "standby clusters are not supported", 8, 18),
    ("watchdog: {mode: required}", Severity::Error, "watchdog.mode is 'required'", 8, 18),
    ("watchdog: {mode: automatic}", Severity::Warning, "watchdog.mode is 'automatic'", 8, 18),
    ("etcd: {host: 'a:2379'}", Severity::Error, "the store 'etcd' is not supported", 8, 1),
    ("etcd3: {protocol: http}", Severity::Error, "etcd3.hosts is missing", 8, 8),
    ("etcd3: {host: 'a:2379', username: u}", Severity::Error, "etcd3.password is missing", 8, 8),
    ("etcd3: {host: 'a:2379', cacert: /c}", Severity::Error, "etcd3.cacert is given", 8, 33),
    ("etcd3: {url: 'ftp://a'}", Severity::Error, "etcd3.url: expected a URL", 8, 14),
    ("etcd3: {srv_suffix: a}", Severity::Error, "etcd3.srv is missing", 8, 8),
    ("etcd3: {host: a}\nraft: {self_addr: '127.0.0.1:1'}", Severity::Error, "sections for two stores", 9, 7),
    ("kubernetes: {labels: {a: b}}", Severity::Error, "the store 'kubernetes' is not supported", 8, 1),
    ("zookeeper: {hosts: ['a:1']}", Severity::Error, "the store 'zookeeper' is not supported", 8, 1),
    ("bootstrap: {method: pgbackrest, pgbackrest: {command: x}}", Severity::Error, "only initdb is supported", 8, 21),
    // Timing.
    ("bootstrap: {dcs: {ttl: 4}}", Severity::Error, "ttl must be at least 5 seconds, found 4", 8, 24),
    ("bootstrap: {dcs: {ttl: 4.99}}", Severity::Error, "ttl must be at least 5 seconds, found 4.99", 8, 24),
    ("bootstrap: {dcs: {ttl: 10, loop_wait: 3, retry_timeout: 4}}", Severity::Error, "but 3 + 2 * 4 > 10", 8, 24),
    ("bootstrap: {dcs: {loop_wait: 0}}", Severity::Error, "loop_wait must be at least 0.1 seconds", 8, 30),
    (
        "bootstrap: {dcs: {switchover_pause_within: 61}}",
        Severity::Error,
        "switchover_pause_within must be at most 60 seconds, found 61",
        8,
        44,
    ),
    ("bootstrap: {dcs: {ttl: soon}}", Severity::Error, "ttl: expected a number of seconds", 8, 24),
    ("bootstrap: {dcs: 5}", Severity::Error, "bootstrap.dcs: expected a map", 8, 18),
    // A virtual address that cannot be had keeps nobody from starting.
    (
        "address: {interface: eth0, addresses: [10.0.0.300/24]}",
        Severity::Warning,
        "address.addresses[0]: '10.0.0.300/24' is no address of a host with the length of its prefix; there is no virtual address",
        8,
        40,
    ),
    (
        "address: {interface: eth0, addresses: [10.0.0.9/33]}",
        Severity::Warning,
        "address.addresses[0]: '10.0.0.9/33' is no address of a host",
        8,
        40,
    ),
    (
        "address: {interface: eth0, addresses: [10.0.0.9, 10.0.0.9/24]}",
        Severity::Warning,
        "address.addresses[1]: 10.0.0.9 is in the list twice",
        8,
        50,
    ),
    ("address: {addresses: [10.0.0.9/24]}", Severity::Warning, "address.interface is missing", 8, 10),
    ("address: {interface: eth0}", Severity::Warning, "address.addresses is missing", 8, 10),
    (
        "address: {interface: a/b, addresses: [10.0.0.9/24]}",
        Severity::Warning,
        "address.interface: 'a/b' cannot be the name of an interface",
        8,
        22,
    ),
    (
        "address: {interface: eth0, addresses: [10.0.0.9/24], managed_by: scripts}",
        Severity::Warning,
        "address.managed_by is scripts, but one that adds the address or one that removes it is missing",
        8,
        66,
    ),
    (
        "address: {interface: eth0, addresses: [10.0.0.9/24], garp: 1}",
        Severity::Warning,
        "address.garp is not known",
        8,
        60,
    ),
    ("address: {state_file: state}", Severity::Warning, "address.state_file: 'state' is not an absolute path", 8, 23),
    // Without effect, and unknown.
    ("log: {level: INFO, dir: /tmp}", Severity::Warning, "log.dir is not supported", 8, 20),
    ("log: {level: LOUD}", Severity::Error, "log.level: expected DEBUG", 8, 14),
    ("bootstrap: {users: {a: {}}}", Severity::Warning, "bootstrap.users is not supported", 8, 13),
    ("bootstrap: {dcs: {slots: {a: {}}}}", Severity::Warning, "bootstrap.dcs.slots is not supported", 8, 19),
    ("tags: {nostream: true}", Severity::Warning, "tags.nostream is shown to others", 8, 18),
    ("tags: {replicatefrom: pg-2}", Severity::Warning, "tags.replicatefrom is shown to others", 8, 23),
    ("tags: {nofailover: true, failover_priority: 2}", Severity::Warning, "Defaulting to nofailover: True", 8, 20),
    ("restapy: {}", Severity::Warning, "restapy is no key", 8, 1),
    ("bootstrap: {dcs: {loop_wiat: 1}}", Severity::Warning, "bootstrap.dcs.loop_wiat is no key", 8, 19),
    ("citus: {group: 0, database: a}", Severity::Warning, "citus is not supported", 8, 1),
    (
        "bootstrap: {dcs: {postgresql: {parameters: {max_connections: 7}}}}",
        Severity::Warning,
        "max_connections is '7': expected a whole number, 25 or more; it stays 100",
        8,
        62,
    ),
    (
        "bootstrap: {dcs: {postgresql: {parameters: {hot_standby: off}}}}",
        Severity::Warning,
        "hot_standby is 'off': expected on; it stays on",
        8,
        58,
    ),
    // The store.
    ("raft: {self_addr: '10.0.0.1:2380'}", Severity::Error, "raft.password is missing, and 10.0.0.1:2380", 8, 7),
    (
        "raft: {self_addr: '127.0.0.1:1', partner_addrs: ['pg-2:1']}",
        Severity::Error,
        "raft.password is missing, and pg-2:1",
        8,
        7,
    ),
    ("raft: {self_addr: '127.0.0.1:1', bind_addr: '0.0.0.0:1'}", Severity::Error, "raft.password is missing", 8, 7),
    ("raft: {partner_addrs: ['127.0.0.1:1']}", Severity::Error, "raft.self_addr is missing", 8, 7),
    ("raft: {self_addr: '0.0.0.0:1', password: x}", Severity::Error, "an address that nobody can connect to", 8, 19),
    ("raft: {data_dir: /data/pg-1/raft}", Severity::Error, "raft.data_dir is inside postgresql.data_dir", 8, 18),
    ("raft: {data_dir: raft}", Severity::Error, "'raft' is not an absolute path", 8, 18),
    // Values.
    ("bootstrap: {initdb: [{pgdata: /x}]}", Severity::Error, "the option 'pgdata' is set by pgbaton", 8, 31),
    ("bootstrap: {initdb: [[a]]}", Severity::Error, "expected the name of an option", 8, 22),
    ("bootstrap: {pg_hba: x}", Severity::Error, "bootstrap.pg_hba: expected a list of lines, found 'x'", 8, 21),
    ("ctl: {authentication: {username: a}}", Severity::Error, "ctl.authentication.password is missing", 8, 23),
    ("tags: [a]", Severity::Error, "tags: expected a map of keys and values, found a list", 8, 7),
    // YAML itself.
    ("tags: {a: 1", Severity::Error, "not valid YAML: unclosed bracket '{'", 8, 7),
    ("name: again", Severity::Error, "duplicate", 8, 1),
];

#[test]
fn each_case_is_found_at_its_place() {
    for (lines, severity, message, line, column) in CASES {
        let findings = match load(&format!("{GOOD}{lines}\n")) {
            Ok(loaded) => {
                assert_eq!(*severity, Severity::Warning, "{lines}: accepted with {:?}", loaded.warnings);
                loaded.warnings
            }
            Err(findings) => findings,
        };
        let found = findings.iter().find(|finding| finding.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("{lines}: no {message:?} in {findings:#?}"));
        assert_eq!(
            (found.severity, found.line, found.column, found.file.as_str()),
            (*severity, *line, *column, "m.yml"),
            "{lines}: {found}"
        );
        assert_eq!(findings.len(), 1, "{lines}: one mistake, one finding: {findings:#?}");
    }
}

#[test]
fn what_promises_nothing_is_accepted_in_silence() {
    for lines in [
        "",
        "watchdog: {mode: off}",
        "synchronous_mode: false",
        "standby_cluster: {}",
        "etcd3:",
        "bootstrap: {dcs: {synchronous_mode: 'off', failsafe_mode: false, standby_cluster: {host: ''}}}",
        "bootstrap: {dcs: {ttl: 5.5, loop_wait: 0.5, retry_timeout: 2.5}}",
        "raft: {self_addr: '127.0.0.1:2380', partner_addrs: ['127.0.0.1:2381', 'localhost:2382']}",
        "raft: {self_addr: '10.0.0.1:2380', partner_addrs: ['10.0.0.2:2380'], password: x}",
        "tags: {nostream: false, mine: 5}",
    ] {
        let loaded = load(&format!("{GOOD}{lines}\n")).unwrap_or_else(|findings| panic!("{lines}: {findings:?}"));
        assert!(loaded.warnings.is_empty(), "{lines}: {:?}", loaded.warnings);
    }
}

#[test]
fn what_the_server_and_the_rest_api_cannot_do_is_an_error() {
    for (section, line, message) in [
        ("restapi", "certfile: /x", "the REST API cannot speak TLS"),
        ("restapi", "verify_client: required", "restapi.verify_client is 'required'"),
        ("restapi", "allowlist: [10.0.0.0/8]", "the REST API cannot refuse clients by address"),
        ("postgresql", "pre_promote: /bin/false", "postgresql.pre_promote is not called"),
    ] {
        let text = GOOD
            .replace("restapi: {listen: '127.0.0.1:8008'}", "restapi:\n  listen: 127.0.0.1:8008")
            .replace(&format!("{section}:\n"), &format!("{section}:\n  {line}\n"));
        let findings = load(&text).expect_err(line);
        assert!(findings.len() == 1 && findings[0].message.contains(message), "{line}: {findings:?}");
    }
}

#[test]
fn everything_missing_is_said_at_once() {
    let findings =
        load("restapi: {listen: '*:8008'}\npostgresql: {listen: '0.0.0.0'}\n").expect_err("nothing is there");
    let paths: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
    for path in [
        "name",
        "scope",
        "restapi.connect_address",
        "postgresql.connect_address",
        "postgresql.data_dir",
        "postgresql.authentication.replication.username",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    assert!(findings.iter().all(|finding| !finding.help.is_empty()), "{findings:?}");
}

#[test]
fn a_finding_looks_like_a_compilers() {
    let findings = load(&format!("{GOOD}bootstrap: {{dcs: {{ttl: 3}}}}\nrestapy: x\n")).expect_err("ttl is too low");
    let shown = LoadError::Invalid { findings }.to_string();
    assert_eq!(
        shown,
        "error: ttl must be at least 5 seconds, found 3
 --> m.yml:8:24
  |
8 | bootstrap: {dcs: {ttl: 3}}
  |                        ^

warning: restapy is no key that pgbaton or Patroni knows
 --> m.yml:9:1
  |
9 | restapy: x
  | ^
  = help: did you mean 'restapi'? It has no effect as written"
    );
}

#[test]
fn no_message_shows_a_password() {
    let text = format!("{GOOD}raft: {{self_addr: '127.0.0.1:1', password: [hunter2]}}\n");
    let shown = LoadError::Invalid { findings: load(&text).expect_err("a list is no password") }.to_string();
    assert!(shown.contains("raft.password: expected a text"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_members_own_address_is_no_virtual_one() {
    let good = GOOD.replace("127.0.0.1:5432", "10.0.0.7:5432");
    let loaded = load(&format!("{good}address: {{interface: eth0, addresses: [10.0.0.7/24]}}\n")).unwrap();
    let told = "address.addresses[0]: 10.0.0.7 is this member's own address, by which the others know it; there is no virtual address";
    assert!(loaded.warnings.iter().any(|warning| warning.message == told), "{:?}", loaded.warnings);
    assert!(loaded.local.address.is_err());
}

#[test]
fn a_virtual_address_is_read_with_everything_that_belongs_to_it() {
    let section = "address:
  interface: eth0
  addresses: [10.0.0.9/24, 'fd00::9/64', 10.0.0.10]
  notify: /etc/keepalived/notify.sh main
  upscript: [/etc/vip-up.sh]
  downscript: /etc/vip-down.sh
  managed_by: scripts
";
    let loaded = load(&format!("{GOOD}{section}")).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.local.address.unwrap().unwrap();
    let shown: Vec<String> = config.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
    assert_eq!(shown, ["10.0.0.9/24", "fd00::9/64", "10.0.0.10/32"]);
    assert_eq!(config.notify.unwrap(), ["/etc/keepalived/notify.sh", "main"]);
    assert!(config.by_scripts && config.priority == 100);
    assert_eq!([config.announce_interval.as_secs(), config.within.as_secs()], [30, 10]);
    assert!(load(GOOD).unwrap().local.address.unwrap().is_none());
}
