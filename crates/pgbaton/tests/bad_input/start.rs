//! Mistakes that a member sees before it begins: it ends with 1, and its data is what it was.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use pgbaton_testkit::postgres;
use pgbaton_testkit::user::is_root;

use crate::ground::Ground;

/// What is replaced in a right configuration, and what is said about it. `DIR` is the directory of the test, `BIN` that of
/// PostgreSQL's programs.
const REFUSED: [(&str, &str, &str, &[&str]); 24] = [
    (
        "an open bracket",
        "scope: bad",
        "scope: [bad",
        &["not valid YAML", "a.yml:2:5", "expected lines such as 'key: value'", "open bracket"],
    ),
    ("a tab", "  listen: 127", "\tlisten: 127", &["not valid YAML", "a.yml:4:2", "by blanks and not by tabs"]),
    ("a key twice", "name: a\n", "name: a\nname: b\n", &["a.yml:3:1", "each key once"]),
    (
        "wrong type",
        "ttl: 5",
        "ttl: soon",
        &["bootstrap.dcs.ttl: expected a number of seconds, 0 or more, found 'soon'", "a.yml:9:10"],
    ),
    ("wrong ttl", "ttl: 5", "ttl: 4", &["ttl must be at least 5 seconds, found 4", "a.yml:9:10"]),
    (
        "impossible timing",
        "retry_timeout: 1.5",
        "retry_timeout: 3",
        &["loop_wait + 2 * retry_timeout must not exceed ttl, but 1 + 2 * 3 > 5", "a.yml:9:"],
    ),
    (
        "a promise that cannot be kept",
        "    loop_wait: 1\n",
        "    loop_wait: 1\n    synchronous_mode: true\n",
        &["synchronous_mode is set to 'true'", "a.yml:11:"],
    ),
    (
        "another store",
        "raft:\n",
        "consul: {host: '127.0.0.1:8500'}\nraft:\n",
        &["'consul' is not supported", "a.yml:5:"],
    ),
    (
        "two stores",
        "raft:\n",
        "etcd3: {hosts: '127.0.0.1:2379'}\nraft:\n",
        &["sections for two stores: etcd3 and raft", "a.yml:7:"],
    ),
    (
        "a certificate for nobody",
        "raft:\n",
        "raft:\n  certfile: /nowhere/cert.pem\n",
        &["raft.self_addr is missing", "a.yml:6:"],
    ),
    (
        "a store whose certificate is not there",
        "raft:\n",
        "raft:\n  self_addr: 127.0.0.1:2380\n  certfile: /nowhere/cert.pem\n",
        &["raft.certfile: /nowhere/cert.pem cannot be read", "correct it"],
    ),
    ("a missing key", "name: a\n", "", &["name is missing", "add a line such as 'name: pg-1'"]),
    (
        "no password beyond loopback",
        "raft:\n",
        "raft:\n  self_addr: 10.9.8.7:2380\n",
        &["raft.password is missing, and 10.9.8.7:2380 can be reached from other hosts", "add 'password: ...'"],
    ),
    (
        "an address without a port",
        "raft:\n",
        "raft:\n  self_addr: 127.0.0.1\n",
        &["raft.self_addr", "expected", "a.yml:6:"],
    ),
    (
        "no program at all",
        "bin_dir: BIN",
        "bin_dir: /nowhere/bin",
        &["/nowhere/bin/postgres", "set postgresql.bin_dir to the directory with PostgreSQL's programs"],
    ),
    (
        "no pg_rewind",
        "bin_dir: BIN",
        "bin_dir: DIR/without-pg_rewind",
        &["DIR/without-pg_rewind/pg_rewind does not exist", "set postgresql.bin_dir"],
    ),
    (
        "no pg_basebackup",
        "bin_dir: BIN",
        "bin_dir: DIR/without-pg_basebackup",
        &["DIR/without-pg_basebackup/pg_basebackup does not exist", "set postgresql.bin_dir"],
    ),
    (
        "something else than PostgreSQL",
        "bin_dir: BIN",
        "bin_dir: DIR/other-program",
        &["DIR/other-program/postgres --version answered", "set postgresql.bin_dir"],
    ),
    (
        "a data directory that cannot be written",
        "data_dir: DIR/a-data",
        "data_dir: DIR/locked/data",
        &["DIR/locked", "correct its owner and mode"],
    ),
    (
        "a data directory that is a file",
        "data_dir: DIR/a-data",
        "data_dir: DIR/pgbaton",
        &["DIR/pgbaton is not a directory", "postgresql.data_dir"],
    ),
    (
        "a store's directory that cannot be written",
        "data_dir: DIR/a-store",
        "data_dir: DIR/locked/store",
        &["DIR/locked/store", "raft.data_dir"],
    ),
    (
        "a store's directory that is a file",
        "data_dir: DIR/a-store",
        "data_dir: DIR/pgbaton",
        &["DIR/pgbaton", "raft.data_dir"],
    ),
    (
        "a passfile that cannot be written",
        "pgpass: DIR/a-pgpass",
        "pgpass: DIR/locked/pgpass",
        &["DIR/locked", "postgresql.pgpass"],
    ),
    (
        "an option that would write elsewhere",
        "bootstrap:\n",
        "bootstrap:\n  initdb: [pgdata: /elsewhere]\n",
        &["pgdata", "a.yml:"],
    ),
];

#[test]
fn a_member_with_a_mistake_ends_with_1_says_what_to_do_and_changes_nothing() {
    let mut ground = Ground::new();
    let right = ground.yaml("a", 0);
    let member = ground.start("a", &right);
    ground.wait_leader("a", 0, &member);
    ground.sql(0, "CREATE TABLE kept AS SELECT 42 AS n").unwrap();
    ground.stop(&member);

    ground.locked();
    assert!(!is_root() || ground.user.uid != 0, "root may write everywhere");
    let bin_dir = postgres::bin_dir().unwrap();
    for missing in ["pg_rewind", "pg_basebackup"] {
        programs_without(&bin_dir, missing, &ground.path(&format!("without-{missing}")));
    }
    programs_without(&bin_dir, "postgres", &ground.path("other-program"));
    symlink("/bin/echo", ground.path("other-program/postgres")).unwrap();
    let directory = ground.path("").display().to_string().trim_end_matches('/').to_owned();
    let fill = |text: &str| text.replace("DIR", &directory).replace("BIN", &bin_dir.display().to_string());
    let (data, store) = (ground.files("a-data"), ground.files("a-store"));
    for (what, from, to, said) in REFUSED {
        let wrong = right.replacen(&fill(from), &fill(to), 1);
        assert_ne!(right, wrong, "{what}");
        let said: Vec<String> = said.iter().map(|said| fill(said)).collect();
        ground.refused(what, "a", &wrong, &said.iter().map(String::as_str).collect::<Vec<_>>());
        ground.assert_unchanged("a-data", &data, what);
        ground.assert_unchanged("a-store", &store, what);
    }
    let left: Vec<_> = ground.host.processes().unwrap();
    assert!(left.is_empty(), "{left:?}");

    let member = ground.start("a", &right);
    ground.wait_leader("a", 0, &member);
    assert_eq!(ground.sql(0, "SELECT n FROM kept").unwrap(), "42");
    ground.stop(&member);
}

/// A directory with links to all programs of PostgreSQL but one.
fn programs_without(bin_dir: &Path, missing: &str, made: &Path) {
    fs::create_dir(made).unwrap();
    for entry in fs::read_dir(bin_dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != *missing {
            symlink(entry.path(), made.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let mut ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let right = ground.yaml("port", 0);
    let (server, rest) =
        (format!("listen: 127.0.0.1:{}", ground.port(0)), format!("listen: 127.0.0.1:{}", ground.port(1)));
    let cases = [
        (server, format!("listen: {taken}"), "for PostgreSQL: stop what uses it, or change postgresql.listen"),
        (rest, format!("listen: {taken}"), "for the REST API: stop what uses it, or change restapi.listen"),
        (
            "raft:\n".to_owned(),
            format!("raft:\n  self_addr: {taken}\n"),
            "for the other members of the store: stop what uses it, or change raft.bind_addr or raft.self_addr",
        ),
    ];
    for (from, to, said) in cases {
        let wrong = right.replacen(&from, &to, 1);
        assert_ne!(right, wrong, "{said}");
        ground.refused(said, "port", &wrong, &[&format!("cannot listen on {taken} {said}")]);
    }
    assert!(!ground.path("port-data").exists(), "nothing was made");
}

#[test]
fn a_server_that_cannot_start_says_why_and_starts_once_it_can() {
    let mut ground = Ground::new();
    let locked = ground.locked();
    let right = ground.yaml("a", 0);
    let member = ground.start("a", &right);
    ground.wait_leader("a", 0, &member);
    ground.sql(0, "CREATE TABLE kept AS SELECT 42 AS n").unwrap();
    ground.stop(&member);
    let log = format!("parameters:\n    logging_collector: on\n    log_directory: {}\n", locked.display());
    let member = ground.start("a", &right.replacen("parameters:\n", &log, 1));
    member.wait_for_words(&[
        &format!("could not open log file \"{}", locked.display()),
        "the server ended while it was starting; its log, above this line, says why",
    ]);
    ground.assert_running(&member);
    ground.stop(&member);
    let member = ground.start("a", &right);
    ground.wait_leader("a", 0, &member);
    assert_eq!(ground.sql(0, "SELECT n FROM kept").unwrap(), "42");
    ground.stop(&member);
}
