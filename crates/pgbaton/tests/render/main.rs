//! `pgbaton render` beside a real cluster, with the programs that read its files.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/common.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod common;

use std::path::Path;
use std::process::{Command, Output};

use ::postgres as postgres_client;
use common::*;
use pgbaton_testkit::cluster::{SUPERUSER, SUPERUSER_PASSWORD, StoreKind};
use pgbaton_testkit::{Cluster, Launch, OsUser, PortLease, Process, TempDir, postgres, wait};

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;

/// A directory with a configuration that has these files.
fn configured(cluster: &Cluster, files: &str) -> TempDir {
    let directory = TempDir::new("render", &OsUser::for_servers().unwrap()).unwrap();
    configure(cluster, &directory, files);
    directory
}

fn configure(cluster: &Cluster, directory: &TempDir, files: &str) {
    let files = files.replace("DIR", &directory.path().display().to_string());
    let text = format!("scope: test\n{}files:\n{files}", cluster.client_section());
    directory.file("render.yml", &text, &OsUser::for_servers().unwrap()).unwrap();
}

fn render(directory: &TempDir, arguments: &[&str]) -> Output {
    let config = directory.path().join("render.yml");
    Command::new(env!("CARGO_BIN_EXE_pgbaton")).arg("-c").arg(config).arg("render").args(arguments).output().unwrap()
}

fn outcomes(output: &Output) -> Vec<String> {
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let outcome = |row: &serde_json::Value| row["outcome"].as_str().unwrap_or_default().to_owned();
    rows.as_array().into_iter().flatten().map(outcome).collect()
}

fn read(directory: &TempDir, name: &str) -> String {
    std::fs::read_to_string(directory.path().join(name)).unwrap_or_default()
}

#[test]
fn programs_read_what_is_made_for_them_and_a_second_time_changes_nothing() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let directory = configured(
        &cluster,
        "  - {path: DIR/service, template: pg_service, vars: {dbname: postgres}}
  - {path: DIR/ssh, template: ssh, mode: 0600, vars: {user: admin}}
  - {path: DIR/haproxy, template: haproxy, check: [/usr/sbin/haproxy, -c, -f, '{file}'], command: touch DIR/told}
  - {path: DIR/environment, template: environment}
",
    );
    let first = render(&directory, &["--format", "json"]);
    assert_eq!(outcomes(&first), ["written"; 4], "{first:?}");
    assert!(directory.path().join("told").exists());
    assert_eq!(outcomes(&render(&directory, &["--format", "json"])), ["unchanged"; 4]);

    let mut psql = Command::new(postgres::bin_dir().unwrap().join("psql"));
    psql.env("PGSERVICEFILE", directory.path().join("service")).env("PGPASSWORD", SUPERUSER_PASSWORD);
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command=SELECT inet_server_port()"]);
    let asked = psql.arg(format!("service=test-primary user={SUPERUSER}")).output().unwrap();
    let port = cluster.postgres_port(primary).to_string();
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), port, "{asked:?}");

    let ssh = Command::new("ssh").arg("-G").arg("-F").arg(directory.path().join("ssh")).arg("test-primary").output();
    let said = String::from_utf8_lossy(&ssh.unwrap().stdout).into_owned();
    assert!(said.contains("\nhostname 127.0.0.1\n") && said.contains("user admin\n"), "{said}");

    let shell = format!(". {} && echo $PGBATON_PRIMARY_PORT", directory.path().join("environment").display());
    let shell = Command::new("sh").arg("-c").arg(shell).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout).trim(), port);
}

#[test]
fn files_follow_a_switchover_and_commands_are_run() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let files =
        "  - {path: DIR/environment, template: environment, command: [sh, -c, 'cat \"$0\" >> DIR/told', '{file}']}\n";
    let directory = configured(&cluster, files);
    let log = directory.path().join("log");
    let config = directory.path().join("render.yml").display().to_string();
    let launch = Launch::new(env!("CARGO_BIN_EXE_pgbaton"), log).args(["-c", &config, "render", "--watch"]);
    let watching = Process::start(&launch.user(&OsUser::for_servers().unwrap())).unwrap();
    let names = |member: usize, file: &str| {
        let wanted = format!("PGBATON_PRIMARY={}\n", cluster.name(member));
        wait::until("the file to name the primary", LIMIT, || {
            let text = read(&directory, file);
            if text.contains(&wanted) { Ok(()) } else { Err(format!("{text}{}", watching.output())) }
        })
        .unwrap();
    };
    names(first, "environment");
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let second = cluster.wait_primary(LIMIT).unwrap();
    assert_ne!(first, second);
    names(second, "environment");
    names(second, "told");
}

#[test]
fn nginx_leads_to_the_primary_that_its_file_names() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let ports = PortLease::hold_many(2).unwrap();
    let [rw, ro] = [0, 1].map(|port: usize| ports[port].port());
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("render", &user).unwrap();
    let dir = directory.path().display().to_string();
    let main = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
pid {dir}/nginx.pid;
error_log {dir}/error.log notice;
daemon off;
worker_processes 1;
events {{}}
stream {{ include {dir}/stream.conf; }}
"
    );
    let main = directory.file("nginx.conf", &main, &user).unwrap().display().to_string();
    let command = format!("/usr/sbin/nginx -q -c {main} -p {dir}");
    let files = format!(
        "  - path: {dir}/stream.conf
    template: nginx
    vars: {{bind_rw: '127.0.0.1:{rw}', bind_ro: '127.0.0.1:{ro}'}}
    command: [sh, -c, 'test ! -e {dir}/nginx.pid || ({command} -t && {command} -s reload)']
"
    );
    configure(&cluster, &directory, &files);
    let made = render(&directory, &[]);
    assert!(made.status.success(), "{made:?}");
    let launch = Launch::new("/usr/sbin/nginx", directory.path().join("log")).args(["-c", &main, "-p", &dir]);
    let nginx = Process::start(&launch.user(&user)).unwrap();
    let led_to = |port: u16, wanted: &dyn Fn(u16) -> bool| {
        wait::until("a session on the right server", LIMIT, || {
            let failed = |error: postgres_client::Error| format!("{error}: {}", nginx.output());
            let mut client = session(port).map_err(failed)?;
            let server: i32 = client.query_one("SELECT inet_server_port()", &[]).map_err(failed)?.get(0);
            if wanted(u16::try_from(server).unwrap()) { Ok(()) } else { Err(format!("port {server}")) }
        })
        .unwrap();
    };
    led_to(rw, &|port| port == cluster.postgres_port(first));
    led_to(ro, &|port| port != cluster.postgres_port(first));
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let second = cluster.wait_primary(LIMIT).unwrap();
    let made = render(&directory, &[]);
    assert!(made.status.success(), "{made:?}");
    led_to(rw, &|port| port == cluster.postgres_port(second));
}

#[test]
fn barman_finds_the_primary_in_its_file() {
    let cluster = healthy();
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("barman", &user).unwrap();
    let dir = directory.path().display().to_string();
    let servers = directory.subdir("servers", &user).unwrap().display().to_string();
    let home = directory.subdir("home", &user).unwrap().display().to_string();
    let name = if rustix::process::getuid().is_root() { "postgres".to_owned() } else { std::env::var("USER").unwrap() };
    let main = format!(
        "[barman]\nbarman_user = {name}\nbarman_home = {home}\nbarman_lock_directory = {home}\nconfiguration_files_directory = {servers}\nlog_file = {dir}/barman.log\n"
    );
    let main = directory.file("barman.conf", &main, &user).unwrap().display().to_string();
    let files = format!(
        "  - {{path: {servers}/test.conf, template: barman, vars: {{name: test, user: {SUPERUSER}, streaming_user: {SUPERUSER}}}}}\n"
    );
    configure(&cluster, &directory, &files);
    let barman = |command: &str| {
        let log = directory.path().join(command);
        let launch = Launch::new("/usr/bin/barman", log).args(["-c", &main, command, "test"]);
        let mut barman = Process::start(&launch.env("PGPASSWORD", SUPERUSER_PASSWORD).user(&user)).unwrap();
        barman.wait(LIMIT).unwrap();
        barman.output()
    };
    let mut primary = cluster.wait_primary(LIMIT).unwrap();
    for _ in 0..2 {
        let made = render(&directory, &[]);
        assert!(made.status.success(), "{made:?}");
        let shown = barman("show-servers");
        let wanted = format!("conninfo: host=127.0.0.1 port={} ", cluster.postgres_port(primary));
        assert!(shown.contains(&wanted), "{shown}");
        let checked = barman("check");
        assert!(checked.contains("PostgreSQL: OK") && checked.contains("PostgreSQL streaming: OK"), "{checked}");
        let answer = cluster.switchover(primary, primary, None).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        primary = cluster.wait_primary(LIMIT).unwrap();
    }
}

#[test]
fn haproxy_takes_weights_and_draining_from_the_agent_check() {
    let ports = PortLease::hold_many(2).unwrap();
    let [agent, ro] = [0, 1].map(|port: usize| ports[port].port());
    let mut cluster = prepared(options());
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let standby = (primary + 1) % 3;
    let path = cluster.config(standby);
    let before = std::fs::read_to_string(&path).unwrap();
    let with = |tags: &str| {
        let text = before.replacen("restapi:\n", &format!("restapi:\n  agent_check: 127.0.0.1:{agent}\n"), 1);
        std::fs::write(&path, format!("{text}\ntags:\n{tags}")).unwrap();
    };
    with("  router_weight: 50\n");
    cluster.stop_member(standby, LIMIT).unwrap();
    cluster.start(standby).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();

    let directory = configured(
        &cluster,
        &format!(
            "  - {{path: DIR/haproxy, template: haproxy, vars: {{agent_port: {agent}, bind_ro: '127.0.0.1:{ro}'}}, check: [/usr/sbin/haproxy, -c, -f, '{{file}}']}}\n"
        ),
    );
    let made = render(&directory, &[]);
    assert!(made.status.success(), "{made:?}");
    // All members are on one host here: only one of them can have the port that the template gives to all.
    let text = read(&directory, "haproxy");
    let socket = directory.path().join("stats").display().to_string();
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("bind *:5000"))
        .filter(|line| {
            !line.trim_start().starts_with("server ") || line.contains(&format!("server {} ", cluster.name(standby)))
        })
        .collect();
    let kept = kept.join("\n");
    let readers = kept.find("listen test-standbys").unwrap();
    let text = format!("global\n    stats socket {socket} level admin\n{}\n", &kept[readers..]);
    let user = OsUser::for_servers().unwrap();
    let config = directory.file("one.cfg", &text, &user).unwrap().display().to_string();
    let launch = Launch::new("/usr/sbin/haproxy", directory.path().join("log")).args(["-db", "-f", &config]);
    let haproxy = Process::start(&launch.user(&user)).unwrap();
    let shows = |wanted: &dyn Fn(&[&str]) -> bool| {
        wait::until("HAProxy to show it", LIMIT, || {
            let mut stats = std::os::unix::net::UnixStream::connect(&socket).map_err(|error| error.to_string())?;
            std::io::Write::write_all(&mut stats, b"show stat\n").unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stats, &mut text).unwrap();
            let row = text.lines().find(|line| line.contains(&format!(",{},", cluster.name(standby))));
            let row: Vec<&str> = row.ok_or_else(|| format!("{text}{}", haproxy.output()))?.split(',').collect();
            if wanted(&row) { Ok(()) } else { Err(row.join(",")) }
        })
        .unwrap();
    };
    // Columns of `show stat`: 17 is the state, 18 the weight.
    shows(&|row| row[17] == "UP" && row[18] == "50");
    with("  noloadbalance: true\n");
    let answer = cluster.rest(standby, "POST", "/reload", "", LIMIT).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    shows(&|row| row[17].starts_with("DRAIN") || row[17].starts_with("DOWN"));
}

#[test]
fn haproxy_leads_to_the_primary_and_cuts_sessions_to_a_demoted_one() {
    let cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let ports = PortLease::hold_many(2).unwrap();
    let [rw, ro] = [0, 1].map(|port: usize| ports[port].port());
    let files = format!(
        "  - {{path: DIR/haproxy.cfg, template: haproxy, vars: {{bind_rw: '127.0.0.1:{rw}', bind_ro: '127.0.0.1:{ro}'}}}}\n"
    );
    let directory = configured(&cluster, &files);
    assert!(render(&directory, &[]).status.success());
    let config = directory.path().join("haproxy.cfg").display().to_string();
    let before = std::fs::read_to_string(&config).unwrap();
    let launch = Launch::new("/usr/sbin/haproxy", directory.path().join("log")).args(["-db", "-f", &config]);
    let haproxy = Process::start(&launch.user(&OsUser::for_servers().unwrap())).unwrap();
    let led_to = |port: u16, wanted: Option<u16>| {
        wait::until("a session on the right server", LIMIT, || {
            let failed = |error: postgres_client::Error| format!("{error}: {}", haproxy.output());
            let mut client = session(port).map_err(failed)?;
            let row = client.query_one("SELECT inet_server_port(), pg_is_in_recovery()", &[]).map_err(failed)?;
            let (server, standby) = (row.get::<_, i32>(0), row.get::<_, bool>(1));
            let right = wanted.map_or(standby, |wanted| server == i32::from(wanted) && !standby);
            if right { Ok(client) } else { Err(format!("port {server}, in recovery: {standby}")) }
        })
        .unwrap()
    };
    led_to(ro, None);
    let mut bound = led_to(rw, Some(cluster.postgres_port(first)));
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let second = cluster.wait_primary(LIMIT).unwrap();
    led_to(rw, Some(cluster.postgres_port(second)));
    assert!(bound.batch_execute("SELECT 1").is_err(), "a session stays on the demoted server");
    assert!(render(&directory, &[]).status.success());
    assert_eq!(
        std::fs::read_to_string(&config).unwrap(),
        before,
        "a reload would leave sessions to nobody who looks at members"
    );
}

/// A session through a port of this host.
fn session(port: u16) -> Result<postgres_client::Client, postgres_client::Error> {
    let mut config = postgres_client::Config::new();
    config.host("127.0.0.1").port(port).user(SUPERUSER).password(SUPERUSER_PASSWORD).dbname("postgres");
    config.connect_timeout(LIMIT).connect(postgres_client::NoTls)
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let cluster = healthy();
    let directory = configured(&cluster, "  - {path: DIR/out, template: DIR/template}\n");
    let template = |text: &str| {
        directory.file("template", text, &OsUser::for_servers().unwrap()).unwrap();
    };
    template("{{ primray.host }}\n");
    let failed = render(&directory, &["--format", "json"]);
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(said.contains("is wrong in line 1") && !directory.path().join("out").exists(), "{said}");
    template("host={{ primary.host }}\n");
    assert!(render(&directory, &[]).status.success());

    configure(
        &cluster,
        &directory,
        "  - {path: DIR/out, template: ssh, owner: nobody-has-this-name}\n  - {path: out}\n",
    );
    let failed = render(&directory, &[]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("files[1].template is missing"), "{said}");
    configure(&cluster, &directory, "  - {path: DIR/out, template: ssh, owner: nobody-has-this-name}\n");
    let said = String::from_utf8_lossy(&render(&directory, &[]).stderr).into_owned();
    assert!(said.contains("there is no user nobody-has-this-name"), "{said}");
    assert_eq!(read(&directory, "out"), "host=127.0.0.1\n");
}

#[test]
fn a_template_is_printed() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let directory = configured(&cluster, "  []\n");
    let printed = render(&directory, &["--template", "pgbouncer", "--set", "name=app"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    let wanted = format!("app_rw = host=127.0.0.1 port={} dbname=postgres\n", cluster.postgres_port(primary));
    assert!(text.contains(&wanted), "{text}{}", String::from_utf8_lossy(&printed.stderr));
    let missing = render(&directory, &["--template", Path::new("/nowhere").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot read the template /nowhere"));
}

#[test]
fn a_connection_string_finds_the_primary_and_a_job_runs_there_only() {
    let cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let standby = others(primary)[0];
    let program = env!("CARGO_BIN_EXE_pgbaton");
    let pgbaton = |member: usize, arguments: &[&str]| {
        Command::new(program).arg("-c").arg(cluster.config(member)).args(arguments).output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let psql = |dsn: &str| {
        let mut psql = Command::new(postgres::bin_dir().unwrap().join("psql"));
        psql.env("PGPASSWORD", SUPERUSER_PASSWORD).arg(dsn);
        let said = psql.args(["--no-psqlrc", "-tA", "-c", "SELECT inet_server_port(), pg_is_in_recovery()"]).output();
        text(&said.unwrap().stdout)
    };
    let of_primary = |member: usize| format!("{}|f", cluster.postgres_port(member));
    let uri = text(&pgbaton(standby, &["dsn", "--user", SUPERUSER]).stdout);
    let keywords = text(&pgbaton(standby, &["dsn", "--user", SUPERUSER, "--form", "keywords"]).stdout);
    let reader = text(&pgbaton(standby, &["dsn", "--user", SUPERUSER, "--standby"]).stdout);
    assert_eq!((psql(&uri), psql(&keywords)), (of_primary(primary), of_primary(primary)), "{uri} {keywords}");
    assert!(psql(&reader).ends_with("|t"), "{reader}");

    let job = ["run-if-primary", "sh", "-c", "echo ran in $PGBATON_EPOCH"];
    assert!(text(&pgbaton(primary, &job).stdout).starts_with("ran in "));
    let idle = pgbaton(standby, &job);
    assert!(idle.status.success() && idle.stdout.is_empty(), "{idle:?}");
    assert_eq!(pgbaton(standby, &["run-if-primary", "--or-fail", "true"]).status.code(), Some(1));
    let mut shared = Command::new(program);
    // Whom else one may ask is no reason to run there.
    shared
        .env("PGBATON_CONFIG_FILE", cluster.config(standby))
        .env("PGBATON_URL", format!("http://{}", cluster.rest_addresses()[primary]));
    let idle = shared.args(job).output().unwrap();
    assert!(idle.status.success() && idle.stdout.is_empty(), "{idle:?}");
    assert_eq!(pgbaton(primary, &["run-if-primary", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let config = cluster.config(primary).display().to_string();
    let overtaken = pgbaton(primary, &["run-if-primary", program, "-c", &config, "switchover", "--force"]);
    let said = text(&overtaken.stderr);
    assert!(!overtaken.status.success() && said.contains("has not been the primary of epoch"), "{overtaken:?}");
    let second = cluster.wait_primary(LIMIT).unwrap();
    assert_eq!(psql(&uri), of_primary(second), "the same string finds the new one");
}
