//! PgBouncer in switchovers and failovers.

use super::*;

use std::path::Path;
use std::process::Stdio;

use pgbaton_testkit::pgbouncer::{ADMIN, USER};
use pgbaton_testkit::{Launch, PgBouncer, Process, postgres as servers};
use postgres::{Client, NoTls, SimpleQueryMessage};
use rustix::process::Signal;

/// A PgBouncer, and the process that leads it.
struct Led {
    // Ends first: it writes into a directory of the other.
    leader: Process,
    pgbouncer: PgBouncer,
    launch: Launch,
}

/// Its databases are `app_rw` and `app_ro`; `more` are keys of its entry.
fn led(cluster: &Cluster, databases: &str, more: &str) -> Led {
    let pgbouncer = PgBouncer::start(databases, "").unwrap();
    let (directory, user) = (pgbouncer.directory().display().to_string(), OsUser::for_servers().unwrap());
    let text = format!(
        "scope: test
{}pgbouncer:
  - name: one
    console: {}
    state_file: {directory}/state
    file:
      path: {}
      vars: {{name: app, options: user={SUPERUSER} password={SUPERUSER_PASSWORD}}}
    writes: [app_rw]
{more}",
        cluster.client_section(),
        pgbouncer.console(),
        pgbouncer.included().display(),
    );
    let config = pgbouncer.directory().join("clients.yml");
    std::fs::write(&config, text).unwrap();
    let launch = Launch::new(env!("CARGO_BIN_EXE_pgbaton"), pgbouncer.directory().join("clients.log"));
    let launch = launch.args(["clients".to_owned(), config.display().to_string()]).user(&user);
    let leader = Process::start(&launch).unwrap();
    Led { leader, pgbouncer, launch }
}

impl Led {
    fn client(&self, database: &str, user: &str) -> Result<Client, String> {
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(self.pgbouncer.address().port()).user(user).dbname(database);
        config.connect(NoTls).map_err(|error| format!("{error}; {}; {}", self.leader.output(), self.pgbouncer.log()))
    }

    /// A session through it, once it leads to the right server.
    fn writes(&self, cluster: &Cluster, member: usize) -> Client {
        wait::until("PgBouncer to lead to the primary", LIMIT, || {
            let mut client = self.client("app_rw", USER)?;
            let rows = client.simple_query("SELECT inet_server_port(), pg_is_in_recovery()");
            let rows = rows.map_err(|error| format!("{error}; {}", self.leader.output()))?;
            let port = rows.iter().find_map(|row| match row {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            if port == Some(cluster.postgres_port(member).to_string()) { Ok(client) } else { Err(format!("{port:?}")) }
        })
        .unwrap()
    }

    /// A column of the console's answer.
    fn shows(&self, command: &str, column: &str, of: &str) -> Result<Vec<String>, String> {
        let mut console = self.client("pgbouncer", ADMIN)?;
        let rows = console.simple_query(command).map_err(|error| error.to_string())?;
        let value = |row: &SimpleQueryMessage| match row {
            SimpleQueryMessage::Row(row) => {
                let named = row.try_get("database").or_else(|_| row.try_get("name")).ok().flatten();
                let named = named == Some(of) || row.try_get("name").ok().flatten() == Some(of);
                row.try_get(column).ok().flatten().filter(|_| named).map(str::to_owned)
            }
            _ => None,
        };
        Ok(rows.iter().filter_map(value).collect())
    }

    fn setting(&self, name: &str) -> String {
        let rows = self.client("pgbouncer", ADMIN).unwrap().simple_query("SHOW CONFIG").unwrap();
        let value = |row: &SimpleQueryMessage| match row {
            SimpleQueryMessage::Row(row) => {
                row.get("value").filter(|_| row.get("key") == Some(name)).map(str::to_owned)
            }
            _ => None,
        };
        rows.iter().find_map(value).unwrap()
    }

    fn paused(&self, wanted: bool) {
        let wanted = if wanted { "1" } else { "0" };
        wait::until(&format!("paused to be {wanted}"), LIMIT, || {
            let seen = self.shows("SHOW DATABASES", "paused", "app_rw")?;
            if seen == [wanted] { Ok(()) } else { Err(format!("{seen:?}; {}", self.leader.output())) }
        })
        .unwrap();
    }

    fn log_says(&self, what: &str) {
        wait::until(&format!("the log to say {what:?}"), LIMIT, || {
            let text = self.leader.output();
            if text.contains(what) { Ok(()) } else { Err(text) }
        })
        .unwrap();
    }
}

/// Waits until a holder knows the pooler.
fn is_known(cluster: &Cluster, member: usize) {
    wait::until("the pooler to be known", LIMIT, || {
        let answer = cluster.rest(member, "GET", "/explain", "", LIMIT).map_err(|error| error.to_string())?;
        if answer.body.contains("/one\"") { Ok(()) } else { Err(answer.body) }
    })
    .unwrap();
}

/// A client whose transaction runs until it is dropped.
fn in_transaction(led: &Led, cluster: &Cluster, member: usize) -> Client {
    let mut client = led.writes(cluster, member);
    client.batch_execute("BEGIN; CREATE TABLE IF NOT EXISTS held (n int)").unwrap();
    client
}

/// Asks for a switchover in the background.
fn switchover(cluster: &Cluster, from: usize) -> std::thread::JoinHandle<(u16, String)> {
    let [address, name] = [cluster.rest_addresses()[from].to_string(), cluster.name(from).to_owned()];
    std::thread::spawn(move || {
        let body = format!("{{\"leader\": \"{name}\"}}");
        let curl = Command::new("curl")
            .args(["--silent", "--max-time", "50", "--data", &body, "--write-out", "\n%{http_code}"])
            .arg(format!("http://{address}/switchover"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&curl.stdout).into_owned();
        let (text, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), text.to_owned())
    })
}

#[test]
fn a_switchover_costs_clients_of_pgbouncer_no_transaction() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let led = led(&cluster, "", "    reads: [app_ro]\n");
    led.writes(&cluster, first).batch_execute("CREATE TABLE counted (n int)").unwrap();
    is_known(&cluster, first);
    let script = led.pgbouncer.directory().join("script");
    std::fs::write(&script, "INSERT INTO counted VALUES (1);\n").unwrap();
    let mut pgbench = Command::new(servers::bin_dir().unwrap().join("pgbench"));
    pgbench.args(["--no-vacuum", "--client=8", "--time=8", "--max-tries=1", "--file"]).arg(&script);
    pgbench.args(["--host=127.0.0.1", "--username", USER, "app_rw"]);
    pgbench.arg(format!("--port={}", led.pgbouncer.address().port()));
    let pgbench = pgbench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    let mut primary = first;
    for _ in 0..3 {
        let answer = cluster.switchover(primary, primary, None).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let next = cluster.wait_primary(LIMIT).unwrap();
        assert_ne!(primary, next);
        primary = next;
        cluster.wait_healthy(LIMIT).unwrap();
    }
    // What a reload takes back is set again with it: who comes first after a pause would wait for 15 s.
    assert_eq!(led.setting("server_login_retry"), "0.1");
    let output = pgbench.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaints}{}", led.leader.output());
    assert!(text.contains("number of failed transactions: 0 "), "{text}{complaints}");
    let done: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "))
        .and_then(|number| number.parse().ok())
        .unwrap();
    let rows = cluster.sql(primary, "SELECT count(*) FROM counted").unwrap();
    assert_eq!(format!("{rows:?}").matches(&done.to_string()).count(), 1, "{rows:?}, {done}");
    led.paused(false);
}

#[test]
fn a_pause_ends_whoever_dies_or_freezes() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let mut led = led(&cluster, "", "    pause_within: 30\n    hold_within: 3\n");
    let kept = led.pgbouncer.directory().join("state");
    led.writes(&cluster, first);
    is_known(&cluster, first);
    // The pause waits for this one.
    let open = in_transaction(&led, &cluster, first);
    let asked = switchover(&cluster, first);
    led.paused(true);
    led.leader.signal(Signal::KILL).unwrap();
    led.paused(false);
    drop(open);
    assert_eq!(asked.join().unwrap().0, 200);

    // What the one before has left, the next one finds.
    let second = cluster.wait_primary(LIMIT).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert!(kept.exists(), "nobody has tidied up");
    led.leader = Process::start(&led.launch).unwrap();
    led.log_says("an earlier process has left clients waiting");
    led.writes(&cluster, second);

    // A frozen one is not waited for.
    is_known(&cluster, second);
    let open = in_transaction(&led, &cluster, second);
    let asked = switchover(&cluster, second);
    led.paused(true);
    led.leader.signal(Signal::STOP).unwrap();
    led.paused(false);
    led.leader.signal(Signal::CONT).unwrap();
    drop(open);
    assert_eq!(asked.join().unwrap().0, 200);
    let third = cluster.wait_primary(LIMIT).unwrap();
    led.writes(&cluster, third);
    led.paused(false);
}

#[test]
fn who_takes_over_a_pgbouncer_that_follows_already_touches_no_connection() {
    let mut cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let mut led = led(&cluster, "", "    kill_within: 1\n");
    led.writes(&cluster, first);
    is_known(&cluster, first);
    let mut open = in_transaction(&led, &cluster, first);
    let path = led.pgbouncer.directory().join("clients.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("name: one", "name: another")).unwrap();
    led.leader.signal(Signal::TERM).unwrap();
    led.leader.wait(LIMIT).unwrap();
    led.leader = Process::start(&led.launch).unwrap();
    wait::until("the next one to be known", LIMIT, || {
        let answer = cluster.rest(first, "GET", "/explain", "", LIMIT).map_err(|error| error.to_string())?;
        if answer.body.contains("/another\"") { Ok(()) } else { Err(answer.body) }
    })
    .unwrap();
    let links = led.shows("SHOW SERVERS", "close_needed", "app_rw").unwrap();
    assert!(!links.is_empty() && links.iter().all(|close| close == "0"), "{links:?}; {}", led.leader.output());
    open.batch_execute("COMMIT").unwrap();

    // A standby that goes is taken out of the file, although the primary is the same.
    let ports: Vec<u16> = (0..3).map(|member| cluster.postgres_port(member)).collect();
    let reads_from = || {
        let text = std::fs::read_to_string(led.pgbouncer.included()).unwrap();
        let line = text.lines().find(|line| line.starts_with("app_ro")).unwrap_or_default().to_owned();
        ports.iter().position(|port| line.contains(&format!("port={port} "))).ok_or(line)
    };
    let gone = reads_from().unwrap();
    assert_ne!(gone, first);
    cluster.terminate(gone).unwrap();
    wait::until("another standby in the file", LIMIT, || match reads_from()? {
        member if member == gone => Err("the one that is gone".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
}

#[test]
fn a_switchover_goes_on_or_is_called_off_when_a_pooler_cannot_hold_its_clients() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let led = led(&cluster, "", "    pause_within: 1\n");
    is_known(&cluster, first);
    let document = r#"{"switchover_cancel_without_pause": true}"#;
    let answer = cluster.rest(first, "PATCH", "/config", document, LIMIT).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut open = in_transaction(&led, &cluster, first);
    let (status, text) = switchover(&cluster, first).join().unwrap();
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("/one did not hold its clients"), "{text}");
    // Nobody has noticed anything.
    open.batch_execute("COMMIT").unwrap();
    led.paused(false);
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), first);

    let document = r#"{"switchover_cancel_without_pause": null}"#;
    assert_eq!(cluster.rest(first, "PATCH", "/config", document, LIMIT).unwrap().status, 200);
    let mut open = in_transaction(&led, &cluster, first);
    assert_eq!(switchover(&cluster, first).join().unwrap().0, 200);
    assert!(open.batch_execute("COMMIT").is_err(), "a transaction outlived its server");
    let second = cluster.wait_primary(LIMIT).unwrap();
    led.writes(&cluster, second);
}

#[test]
fn after_a_failover_no_connection_to_the_old_primary_is_left_and_new_ones_do_not_take_it_for_a_standby() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let next = (first + 1) % 3;
    // A way to a server that does not change when that is promoted, as a virtual address is.
    let fixed = format!(
        "fixed = host=127.0.0.1 port={} dbname=postgres user={SUPERUSER} password={SUPERUSER_PASSWORD}",
        cluster.postgres_port(next)
    );
    let led = led(&cluster, &fixed, "    reads: [fixed]\n    kill_within: 2\n");
    led.writes(&cluster, first);
    let read_write = || {
        let mut psql = Command::new(servers::bin_dir().unwrap().join("psql"));
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command=SELECT 'taken'"]);
        let port = led.pgbouncer.address().port();
        let dsn = format!("host=127.0.0.1 port={port} user={USER} dbname=fixed target_session_attrs=read-write");
        String::from_utf8_lossy(&psql.arg(dsn).output().unwrap().stdout).trim().to_owned()
    };
    led.client("fixed", USER).unwrap().batch_execute("SELECT 1").unwrap();
    assert_eq!(read_write(), "", "a standby was taken for a primary");

    // The primary is frozen, with its host: nothing closes what is open to it.
    let mut open = in_transaction(&led, &cluster, first);
    cluster.freeze(first, Part::All).unwrap();
    let second = wait::until("another primary", LIMIT, || {
        let states = cluster.states().map_err(|error| error.to_string())?;
        let found = (0..3).find(|member| *member != first && states[*member].is_primary());
        found.ok_or_else(|| format!("{states:?}"))
    })
    .unwrap();
    led.writes(&cluster, second);
    assert!(open.batch_execute("COMMIT").is_err(), "a client of a frozen server was left waiting");
    wait::until("no connection to the old primary", LIMIT, || {
        let ports = led.shows("SHOW SERVERS", "port", "app_rw")?;
        let old = cluster.postgres_port(first).to_string();
        if ports.contains(&old) { Err(format!("{ports:?}")) } else { Ok(()) }
    })
    .unwrap();
    if second == next {
        assert_eq!(read_write(), "taken");
    }
    cluster.thaw(first, Part::All).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    if second != next {
        let answer = cluster.switchover(second, second, Some(next)).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        led.writes(&cluster, next);
        assert_eq!(read_write(), "taken");
    }
}

#[test]
fn a_console_that_refuses_is_said_and_holds_up_nothing() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let other = "  - name: two
    console: host=127.0.0.1 port=1 user=admin dbname=pgbouncer
    state_file: /nowhere/two
    file: {path: /nowhere/two.ini, owner: 'nobody-knows:nobody-knows'}
    writes: [app_rw]
";
    let mut led = led(&cluster, "", other);
    led.writes(&cluster, first);
    led.log_says("a PgBouncer is not led pooler=\"two\"");
    let config = led.pgbouncer.directory().join("clients.yml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&format!("user={ADMIN}"), &format!("user={USER}"))).unwrap();
    led.leader.signal(Signal::HUP).unwrap();
    led.log_says("not allowed");
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");

    std::fs::write(&config, text.replace("writes: [app_rw]", "writes: [nothing]")).unwrap();
    led.leader.signal(Signal::HUP).unwrap();
    led.log_says("PgBouncer has no database nothing");
    assert!(Path::new(&config).exists());
    led.leader.signal(Signal::TERM).unwrap();
    led.leader.wait(LIMIT).unwrap();
}
