//! The command line as an operator meets it: the real binary, its words and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use expect_test::{Expect, expect};
use pgbaton_testkit::{OsUser, TempDir};

/// What a member answers to `GET /cluster`.
const CLUSTER: &str = r#"{"members": [
    {"name": "a", "role": "leader", "state": "running", "api_url": "API/patroni", "host": "10.0.0.1", "port": 5432, "timeline": 1},
    {"name": "b", "role": "replica", "state": "streaming", "api_url": "API/patroni", "host": "10.0.0.2", "port": 5432, "timeline": 1,
     "receive_lsn": "0/3000148", "receive_lag": 0, "replay_lsn": "0/3000148", "replay_lag": 0}], "scope": "demo"}"#;

/// A member that says what the test wants: bodies by method and path, 404 for the rest. Ends with the test's process.
fn member(answers: Vec<(&'static str, u16, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let api = url.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = String::new();
            // A connection that breaks is the client's affair, here and below.
            BufReader::new(&stream).read_line(&mut head).ok();
            let asked = head.rsplit_once(' ').map_or("", |(asked, _)| asked);
            let found = answers.iter().find(|(request, _, _)| *request == asked);
            let (code, body) =
                found.map_or((404, "nothing".to_owned()), |(_, code, body)| (*code, body.replace("API", &api)));
            write!(stream, "HTTP/1.1 {code} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .ok();
        }
    });
    url
}

fn cluster(more: &[(&'static str, u16, &str)]) -> String {
    let status = r#"{"database_system_identifier": "7412", "tags": {}}"#;
    let mut answers = vec![("GET /cluster", 200, CLUSTER.to_owned()), ("GET /patroni", 200, status.to_owned())];
    answers.extend(more.iter().map(|(request, code, body)| (*request, *code, (*body).to_owned())));
    member(answers)
}

fn pgbaton(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    for name in ["PGBATON_CONFIG_FILE", "PATRONICTL_CONFIG_FILE", "PGBATON_URL"] {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command and compares both outputs and the exit code.
fn check(words: &[&str], code: i32, expected: &Expect) {
    let output = pgbaton(words);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    expected.assert_eq(&text);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
}

#[test]
fn a_cluster_is_shown_as_patronictl_shows_it() {
    let url = cluster(&[]);
    check(
        &["list", "--url", &url],
        0,
        &expect![[r"
        + Cluster: demo (7412) -------+-----------+----+-------------+-----+------------+-----+
        | Member | Host     | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
        | a      | 10.0.0.1 | Leader  | running   |  1 |             |     |            |     |
        | b      | 10.0.0.2 | Replica | streaming |  1 |   0/3000148 |   0 |  0/3000148 |   0 |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
    "]],
    );
    check(
        &["list", "--url", &url, "--format", "json"],
        0,
        &expect![[r#"
        [{"Cluster":"demo","Host":"10.0.0.1","Member":"a","Role":"Leader","State":"running","TL":1},{"Cluster":"demo","Host":"10.0.0.2","Member":"b","Receive LSN":"0/3000148","Receive Lag":0,"Replay LSN":"0/3000148","Replay Lag":0,"Role":"Replica","State":"streaming","TL":1}]
    "#]],
    );
    check(
        &["topology", "--url", &url],
        0,
        &expect![[r"
        + Cluster: demo (7412) -------+-----------+----+-------------+-----+------------+-----+
        | Member | Host     | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
        | a      | 10.0.0.1 | Leader  | running   |  1 |             |     |            |     |
        | + b    | 10.0.0.2 | Replica | streaming |  1 |   0/3000148 |   0 |  0/3000148 |   0 |
        +--------+----------+---------+-----------+----+-------------+-----+------------+-----+
    "]],
    );
}

#[test]
fn mistakes_end_with_1_and_say_what_to_do() {
    let url = cluster(&[]);
    check(
        &["list"],
        1,
        &expect![[r"
        Error: which cluster? Give a member's configuration with -c FILE, or a member's REST API with --url http://HOST:PORT
    "]],
    );
    check(
        &["list", "other", "--url", &url],
        1,
        &expect![[r"
        Error: other is not the cluster there, which is demo: check the name, -c or --url
    "]],
    );
    check(
        &["list", "-c", "/nowhere/member.yml"],
        1,
        &expect![[r"
        Error: the configuration /nowhere/member.yml cannot be read: No such file or directory (os error 2)
    "]],
    );
    check(
        &["restart", "demo", "x", "--force", "--format", "json", "--url", &url],
        1,
        &expect![[r"
        Error: x is not a member of cluster demo
    "]],
    );
    check(
        &["pause", "--url", &url],
        1,
        &expect![[r"
        Error: Failed: pause cluster management status code=404, (nothing)
    "]],
    );
    check(
        &["resume", "--url", &url],
        1,
        &expect![[r"
        Error: Cluster is not paused
    "]],
    );
    let output = pgbaton(&["switch-over"]);
    assert_eq!(output.status.code(), Some(1), "an unknown command");
    let output = pgbaton(&["list", "--url", "http://127.0.0.1:1"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no member of the cluster answers; is its agent running?"), "{text}");
    assert!(text.contains("http://127.0.0.1:1/cluster: no connection"), "{text}");
}

#[test]
fn a_handover_is_checked_before_it_is_asked_for() {
    let url = cluster(&[]);
    let json = ["--format", "json", "--url", url.as_str()];
    for (words, message) in [
        (vec!["switchover", "--leader", "b", "--force"], "Member b is not the leader of cluster demo"),
        (vec!["switchover", "--candidate", "a", "--force"], "Member a is already the leader of cluster demo"),
        (vec!["failover", "--force"], "Failover could be performed only to a specific candidate"),
        (
            vec!["failover", "--candidate", "x", "--force"],
            "Member x does not exist in cluster demo or is tagged as nofailover",
        ),
        (vec!["switchover", "--scheduled", "soon", "--force"], "Unable to parse scheduled timestamp (soon)"),
        (vec!["switchover"], "Aborted! There is nobody to answer"),
    ] {
        let words: Vec<&str> = words.into_iter().chain(json).collect();
        let output = pgbaton(&words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains(message), "{words:?}: {text}");
    }
}

#[test]
fn a_handover_that_fails_is_a_failure() {
    let url = cluster(&[("POST /switchover", 503, "Switchover failed: b does not stream")]);
    let output = pgbaton(&["switchover", "--force", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text, "Error: Switchover failed, details: 503, Switchover failed: b does not stream\n");
    let url = cluster(&[("POST /switchover", 200, "Successfully switched over to \"b\"")]);
    let output = pgbaton(&["switchover", "--force", "--url", &url]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(" Successfully switched over to \"b\"\n"), "{output:?}");
}

#[test]
fn the_configuration_is_shown_and_changed() {
    let config = r#"{"ttl": 10, "postgresql": {"parameters": {"work_mem": "4MB"}}}"#;
    let url = cluster(&[("GET /config", 200, config), ("PATCH /config", 200, config)]);
    check(
        &["show-config", "--url", &url],
        0,
        &expect![[r"
        postgresql:
          parameters:
            work_mem: 4MB
        ttl: 10
    "]],
    );
    check(
        &["edit-config", "-s", "ttl=20", "-p", "work_mem=8MB", "--force", "--url", &url],
        0,
        &expect![[r"
        --- 
        +++ 
        @@ -1,4 +1,4 @@
         postgresql:
           parameters:
        -    work_mem: 4MB
        -ttl: 10
        +    work_mem: 8MB
        +ttl: 20
        Configuration changed
    "]],
    );
    check(
        &["edit-config", "-s", "ttl=10", "--force", "--url", &url],
        0,
        &expect![[r"
        Not changed
    "]],
    );
    check(
        &["edit-config", "-s", "ttl=10", "--force", "--format", "json", "--url", &url],
        0,
        &expect![[r#"
        {"postgresql":{"parameters":{"work_mem":"4MB"}},"ttl":10}
    "#]],
    );
    check(
        &["edit-config", "--url", &url],
        1,
        &expect![[r"
        Error: nothing to change: give -s KEY=VALUE, -p NAME=VALUE, --apply FILE or --replace FILE
    "]],
    );
    let refused = cluster(&[("GET /config", 200, config), ("PATCH /config", 422, "synchronous_mode is set to 'true'")]);
    check(
        &["edit-config", "-q", "-s", "synchronous_mode=true", "--force", "--url", &refused],
        1,
        &expect![[r"
        Error: the configuration was not changed (422): synchronous_mode is set to 'true'
    "]],
    );
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly() {
    let url = cluster(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    command.args(["list", "--url", &url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_wrong_configuration_is_shown_with_its_line() {
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("cli", &user).unwrap();
    let file = directory.file("member.yml", "scope: demo\nname: a\nrestapi: {listen: '127.0.0.1:8008'}\npostgresql:\n  listen: 127.0.0.1:5432\n  data_dir: here\n", &user).unwrap();
    let output = pgbaton(&["list", "-c", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).replace(file.to_str().unwrap(), "FILE");
    expect![[r"
        error: postgresql.authentication.replication.username is missing
         --> FILE:5:3
          |
        5 |   listen: 127.0.0.1:5432
          |   ^
          = help: add 'username: replicator' with its password below postgresql.authentication.replication

        error: postgresql.data_dir: 'here' is not an absolute path
         --> FILE:6:13
          |
        6 |   data_dir: here
          |             ^
          = help: begin it with a '/'
    "]]
    .assert_eq(&text);
    assert_eq!(output.status.code(), Some(1));
}
