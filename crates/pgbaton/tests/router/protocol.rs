//! What the router understands, and what it refuses.

use super::*;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use pgbaton_testkit::{Launch, OsUser, PortLease, Process, TempDir};
use postgres::error::SqlState;
use rustix::process::Signal;

#[test]
fn a_statement_is_cancelled_through_the_router() {
    let (_cluster, router) = routed("", "");
    for at in [router.writes(), router.reads()] {
        let mut client = session(at).unwrap();
        let cancel = client.cancel_token();
        let sleeping = std::thread::spawn(move || client.batch_execute("SELECT pg_sleep(3600)"));
        let mut watching = session(at).unwrap();
        wait::until("the statement to run", LIMIT, || {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
            // Of the standbys, only one runs it: whoever asks may be on the other.
            let count: i64 = watching.query_one(running, &[]).map_err(|error| error.to_string())?.get(0);
            if count == 1 {
                return Ok(());
            }
            watching = session(at).map_err(|error| error.to_string())?;
            Err("it does not yet".to_owned())
        })
        .unwrap();
        cancel.cancel_query(NoTls).unwrap();
        let error = sleeping.join().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error}");
    }
}

#[test]
fn what_is_not_postgresql_is_refused_and_counted() {
    let (_cluster, router) = routed("  startup_within: 1\n", "");
    let mut web = TcpStream::connect(router.writes()).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut silent = TcpStream::connect(router.writes()).unwrap();
    for stream in [&mut web, &mut silent] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    let page = text(&router, "/metrics").unwrap();
    assert!(page.contains("pgbaton_router_refused_total{port=\"rw\"} 2"), "{page}");
}

#[test]
fn a_long_result_and_a_long_copy_come_through_whole() {
    let (_cluster, router) = routed("", "");
    let mut client = session(router.writes()).unwrap();
    // 64 MB each way: far beyond what is copied before it is spliced.
    client.batch_execute("CREATE TABLE big (line text)").unwrap();
    let line = "x".repeat(1023);
    let mut copy = client.copy_in("COPY big FROM STDIN").unwrap();
    for _ in 0..65_536 {
        copy.write_all(line.as_bytes()).unwrap();
        copy.write_all(b"\n").unwrap();
    }
    assert_eq!(copy.finish().unwrap(), 65_536);
    let mut out = Vec::new();
    client.copy_out("COPY big TO STDOUT").unwrap().read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 65_536 * 1024);
    assert!(out.chunks(1024).all(|read| read[..1023] == *line.as_bytes() && read[1023] == b'\n'));
}

#[test]
fn a_reload_takes_settings_and_keeps_sessions_and_a_wrong_one_changes_nothing() {
    let (cluster, router) = routed("", "");
    let mut client = session(router.writes()).unwrap();
    router.reload_text("scope: test\nrouter: {ports: 5}\n").unwrap();
    router.reload("  drain_within: 0\n", ", primary: always").unwrap();
    let primary = cluster.postgres_port(cluster.wait_primary(LIMIT).unwrap());
    // Three servers take turns once the primary may be used for reading.
    let mut readers = Vec::new();
    wait::until("the primary to be used for reading", LIMIT, || {
        readers.push(session(router.reads()).map_err(|error| error.to_string())?);
        let found = readers.iter_mut().any(|reader| place(reader).0 == primary);
        if found { Ok(()) } else { Err(format!("not among {}", readers.len())) }
    })
    .unwrap();
    assert_eq!(place(&mut client), (primary, false), "the session was kept");
}

#[test]
fn a_reload_that_takes_a_port_away_ends_its_sessions_and_no_others() {
    let (cluster, router) = routed("", "");
    let (mut writer, mut reader) = (session(router.writes()).unwrap(), session(router.reads()).unwrap());
    let without = format!(
        "scope: test\n{}router:\n  drain_within: 0\n  ports:\n  - {{name: rw, listen: '{}', mode: read-write}}\n",
        cluster.client_section(),
        router.writes()
    );
    router.reload_text(&without).unwrap();
    wait::until("the port to be closed", LIMIT, || match TcpStream::connect(router.reads()) {
        Ok(_) => Err("it is open".to_owned()),
        Err(_) => Ok(()),
    })
    .unwrap();
    wait::until("its session to end", LIMIT, || match reader.batch_execute("SELECT 1") {
        Ok(()) => Err("it goes on".to_owned()),
        Err(_) => Ok(()),
    })
    .unwrap();
    writer.batch_execute("SELECT 1").unwrap();
    session(router.writes()).unwrap();
    // And it comes back with the next one.
    router.reload("", "").unwrap();
    wait::until("the port to be open again", LIMIT, || {
        session(router.reads()).map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    writer.batch_execute("SELECT 1").unwrap();
}

#[test]
fn a_stop_lets_sessions_end_by_themselves_for_a_while() {
    let (_cluster, mut router) = routed("  drain_within: 30\n", "");
    let mut client = session(router.writes()).unwrap();
    router.process().signal(Signal::TERM).unwrap();
    wait::until("the port to be closed", LIMIT, || match TcpStream::connect(router.writes()) {
        Ok(_) => Err("it is open".to_owned()),
        Err(_) => Ok(()),
    })
    .unwrap();
    client.batch_execute("SELECT 1").unwrap();
    drop(client);
    assert!(router.process().wait(LIMIT).unwrap().success());
}

#[test]
fn a_client_behind_a_proxy_is_read_and_one_without_its_header_is_not() {
    let (_cluster, router) = routed("", ", accept_proxy: on");
    let mut proxied = TcpStream::connect(router.reads()).unwrap();
    proxied.set_read_timeout(Some(LIMIT)).unwrap();
    proxied.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 5432\r\n").unwrap();
    proxied.write_all(b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0").unwrap();
    let mut answer = [0; 1];
    proxied.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"R", "an authentication request");
    assert!(session(router.reads()).is_err());
}

#[test]
fn sessions_that_say_nothing_and_sessions_that_are_too_many_are_ended() {
    let (_cluster, router) = routed("  sessions_max: 2\n", "");
    let (mut quiet, _other) = (session(router.writes()).unwrap(), session(router.reads()).unwrap());
    assert!(session(router.writes()).is_err(), "a third one");
    // Not before: a session that is ended makes room.
    router.reload("  idle_within: 1\n  sessions_max: 2\n", "").unwrap();
    wait::until("the quiet session to be ended", LIMIT, || {
        let page = text(&router, "/metrics")?;
        if page.contains("pgbaton_router_idle_total{port=\"rw\"} 1") { Ok(()) } else { Err(page) }
    })
    .unwrap();
    assert!(quiet.batch_execute("SELECT 1").is_err());
    session(router.writes()).unwrap();
}

#[test]
fn a_socket_of_systemds_is_used() {
    let cluster = healthy();
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("systemd", &user).unwrap();
    let port = PortLease::hold().unwrap();
    let text = format!(
        "scope: test\n{}router: {{ports: [{{name: rw, listen: 'systemd:pg', mode: read-write}}]}}\n",
        cluster.client_section()
    );
    let config = directory.file("router.yml", &text, &user).unwrap();
    // As systemd does it: the socket is the fourth descriptor, and the process is told so by its own number.
    let script = format!(
        "import os, socket; s = socket.socket(); s.bind(('127.0.0.1', {})); s.listen(); os.dup2(s.fileno(), 3); os.set_inheritable(3, True); \
         os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='pg'); \
         os.execv('{program}', ['{program}', 'router', '{}'])",
        port.port(),
        config.display(),
        program = env!("CARGO_BIN_EXE_pgbaton"),
    );
    let launch = Launch::new("/usr/bin/python3", directory.path().join("log")).args(["-c".to_owned(), script]);
    let router = Process::start(&launch).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port.port()));
    let mut client = wait::until("a session through it", LIMIT, || session(at).map_err(|error| error.to_string()))
        .unwrap_or_else(|error| panic!("{error}: {}", router.output()));
    assert_eq!(place(&mut client).0, cluster.postgres_port(cluster.wait_primary(LIMIT).unwrap()));
}

#[test]
fn a_configuration_that_cannot_be_used_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let store = "raft: {partner_addrs: ['127.0.0.1:1'], password: x}\n";
    let cases = [
        (format!("scope: a\n{store}"), "router.ports: expected a list of ports"),
        ("scope: a\nrouter: {ports: [{listen: '*:1', mode: read-write}]}\n".to_owned(), "no store is named"),
        (
            format!("scope: a\n{store}router: {{ports: [{{listen: '*:1', mode: both}}]}}\n"),
            "expected read-write or read-only",
        ),
        (
            format!("scope: a\n{store}router: {{prots: 1, ports: [{{listen: '*:1', mode: read-write}}]}}\n"),
            "router.prots is not known",
        ),
        (
            format!("scope: a\n{store}router: {{lease: 0, ports: [{{listen: '*:1', mode: read-write}}]}}\n"),
            "router.lease is 0",
        ),
        (
            format!(
                "scope: a\n{store}router: {{ports: [{{name: rw, listen: '127.0.0.1:{port}', mode: read-write}}]}}\n"
            ),
            "the port rw cannot listen at 127.0.0.1",
        ),
        (
            format!("scope: a\n{store}router: {{ports: [{{name: rw, listen: 'systemd:pg', mode: read-write}}]}}\n"),
            "systemd, which has not handed over one of that name",
        ),
    ];
    for (text, expected) in cases {
        let config = directory.path().join("router.yml");
        std::fs::write(&config, &text).unwrap();
        let program = env!("CARGO_BIN_EXE_pgbaton");
        let ended = std::process::Command::new(program).arg("router").arg(&config).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(expected), "{text}\nexpected {expected}\nsaid {said}");
    }
}
