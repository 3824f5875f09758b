//! The writer against real servers: what it calls acknowledged is there, and it follows a promotion.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgbaton_testkit::writer::{FailureClass, Target, Writer};
use pgbaton_testkit::{OsUser, PortLease, TempDir, clock, postgres, wait};

const LIMIT: Duration = Duration::from_secs(30);

/// A server of the test, stopped at once when this is dropped.
struct Server {
    data: PathBuf,
    user: OsUser,
    port: PortLease,
}

impl Server {
    fn init(directory: &TempDir, name: &str) -> Self {
        let user = OsUser::for_servers().unwrap();
        let data = directory.path().join(name);
        run(&user, "initdb", &["--pgdata", path(&data), "--username", "postgres", "--auth", "trust", "--no-sync"]);
        Self { data, user, port: PortLease::hold().unwrap() }
    }

    fn clone_of(primary: &Self, directory: &TempDir, name: &str) -> Self {
        let (user, data) = (primary.user.clone(), directory.path().join(name));
        let port = primary.port.port().to_string();
        let arguments = ["-D", path(&data), "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", "fast", "-R", "-N"];
        run(&user, "pg_basebackup", &arguments);
        Self { data, user, port: PortLease::hold().unwrap() }
    }

    fn start(&self, settings: &str) {
        let options = format!("-p {} -k '' -h 127.0.0.1 {settings}", self.port.port());
        let log = self.data.with_extension("log");
        run(&self.user, "pg_ctl", &["-D", path(&self.data), "-l", path(&log), "-o", &options, "-w", "start"]);
    }

    fn control(&self, command: &str) {
        run(&self.user, "pg_ctl", &["-D", path(&self.data), "-m", "fast", "-w", command]);
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.port()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = Command::new(postgres::bin_dir().unwrap().join("pg_ctl"));
        // It may have been stopped already.
        let _ = self.user.apply(command.args(["-D", path(&self.data), "-m", "immediate", "stop"])).output();
    }
}

fn run(user: &OsUser, program: &str, arguments: &[&str]) {
    let mut command = Command::new(postgres::bin_dir().unwrap().join(program));
    // The server that pg_ctl starts keeps its standard output: a file, or this would wait for the server's end.
    let status = user.apply(command.args(arguments).current_dir("/").stdout(std::process::Stdio::null())).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn writer(servers: &[&Server]) -> Writer {
    let servers = servers.iter().map(|server| server.address()).collect();
    Writer::start(&Target { servers, user: "postgres".into(), password: None, database: "postgres".into() }).unwrap()
}

fn wait_for_commits(writer: &Writer, server: usize, count: usize) {
    wait::until(&format!("{count} commits on server {server}"), LIMIT, || {
        let record = writer.so_far();
        let found = record.commits().iter().filter(|commit| commit.server == server).count();
        if found >= count { Ok(()) } else { Err(format!("{found}; refusals {:?}", record.refusals())) }
    })
    .unwrap();
}

#[test]
fn the_writer_follows_a_promotion_and_knows_what_was_acknowledged() {
    let directory = TempDir::new("writer", &OsUser::for_servers().unwrap()).unwrap();
    let primary = Server::init(&directory, "one");
    primary.start("-c fsync=off");
    let standby = Server::clone_of(&primary, &directory, "two");
    standby.start("-c fsync=off");
    let writer = writer(&[&primary, &standby]);
    wait_for_commits(&writer, 0, 50);

    let event = clock::now();
    // A fast shutdown sends everything to the standby before it ends.
    primary.control("stop");
    standby.control("promote");
    wait_for_commits(&writer, 1, 50);

    assert_eq!(writer.missing_on(standby.address()).unwrap(), Vec::<i64>::new());
    let record = writer.stop().unwrap();
    assert_eq!((record.moves(), record.two_writable()), (1, None));
    let takeover = record.commits().windows(2).find(|pair| pair[0].server != pair[1].server).unwrap();
    assert_eq!((takeover[0].server, takeover[1].server), (0, 1));
    assert!(takeover[0].ended < takeover[1].begun);
    // A machine that stood still may have made a longer one.
    let gap = record.longest_gap(event, clock::now()).unwrap();
    assert!(gap.length() >= takeover[1].ended.since(takeover[0].ended));
    assert!(record.refusals().keys().any(|(server, class)| *server == 0 && *class == FailureClass::Refused));
}

#[test]
fn a_row_that_is_lost_is_reported_missing() {
    let directory = TempDir::new("writer", &OsUser::for_servers().unwrap()).unwrap();
    let server = Server::init(&directory, "one");
    server.start("-c fsync=off");
    let writer = writer(&[&server]);
    wait_for_commits(&writer, 0, 10);
    let record = writer.stop().unwrap();
    let victim = record.commits()[3].id;
    let delete = format!("DELETE FROM pgbaton_writer WHERE id = {victim}");
    let port = server.port.port().to_string();
    run(&server.user, "psql", &["-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", &delete, "postgres"]);
    let target = Target {
        servers: vec![server.address()],
        user: "postgres".into(),
        password: None,
        database: "postgres".into(),
    };
    let missing = pgbaton_testkit::writer::missing_on(&record, &target, server.address()).unwrap();
    assert_eq!(missing, [victim]);
}

#[test]
fn a_commit_without_its_synchronous_standby_is_not_acknowledged() {
    let directory = TempDir::new("writer", &OsUser::for_servers().unwrap()).unwrap();
    let server = Server::init(&directory, "one");
    server.start("-c fsync=off");
    let writer = writer(&[&server]);
    wait_for_commits(&writer, 0, 5);
    let port = server.port.port().to_string();
    let sql = |statement: &str| {
        run(
            &server.user,
            "psql",
            &["-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", statement, "postgres"],
        );
    };
    sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    sql("SELECT pg_reload_conf()");
    // The writer waits for a standby that does not exist, until it is told not to: success, with a warning.
    wait::until("a cancelled wait", LIMIT, || {
        sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        let failures = writer.so_far().failures().to_vec();
        if failures.iter().any(|failure| failure.class == FailureClass::Unacknowledged) {
            Ok(())
        } else {
            Err(format!("{failures:?}"))
        }
    })
    .unwrap();
}
