//! What the clients of a host follow by, run by the member's agent.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/common.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod common;
mod pgbouncer;

use std::process::Command;

use common::*;
use pgbaton_testkit::cluster::{Part, SUPERUSER, SUPERUSER_PASSWORD, StoreKind};
use pgbaton_testkit::{Cluster, OsUser, PortLease, TempDir, wait};

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;

/// Gives a member's file more sections, and has the agent read it.
fn give(cluster: &Cluster, member: usize, sections: &str) -> String {
    let path = cluster.config(member);
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}\n{sections}")).unwrap();
    reload(cluster, member);
    before
}

fn reload(cluster: &Cluster, member: usize) {
    let answer = cluster.rest(member, "POST", "/reload", "", LIMIT).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// Waits until a port leads to the server of a member.
fn leads_to(cluster: &Cluster, port: u16, member: usize) {
    wait::until("the router to lead to the primary", LIMIT, || {
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(port).user(SUPERUSER).password(SUPERUSER_PASSWORD).dbname("postgres");
        let failed = |error: postgres::Error| format!("{error}; {}", cluster.log_ends());
        let mut client = config.connect(postgres::NoTls).map_err(failed)?;
        let server: i32 = client.query_one("SELECT inet_server_port()", &[]).map_err(failed)?.get(0);
        if server == i32::from(cluster.postgres_port(member)) { Ok(()) } else { Err(format!("port {server}")) }
    })
    .unwrap();
}

/// Waits until a file has these words.
fn says(path: &str, words: &str) {
    wait::until(&format!("{path} to say {words:?}"), LIMIT, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(words) { Ok(()) } else { Err(text) }
    })
    .unwrap();
}

fn log_says(cluster: &Cluster, member: usize, what: &str) {
    wait::until(&format!("the log to say {what:?}"), LIMIT, || {
        let text = std::fs::read_to_string(cluster.log_path(member)).unwrap();
        if text.contains(what) { Ok(()) } else { Err(cluster.log_ends()) }
    })
    .unwrap();
}

#[test]
fn a_router_that_may_not_open_enough_files_says_how_many_sessions_it_takes() {
    let directory = TempDir::new("limits", &OsUser::for_servers().unwrap()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = directory.path().join("router.yml");
    let ports = format!("[{{name: rw, listen: '{listen}', mode: read-write}}]");
    let store = "raft: {partner_addrs: ['127.0.0.1:1'], password: x}";
    std::fs::write(&config, format!("scope: a\n{store}\nrouter: {{ports: {ports}}}\n")).unwrap();
    // It ends at its port, which is in use.
    let script = "ulimit -n 300; exec \"$0\" router \"$1\"";
    let ended = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pgbaton")]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("wanted=10000 sessions_max=86 limit=300") && said.contains("LimitNOFILE"), "{said}");
}

#[test]
fn a_member_runs_router_and_files_and_they_follow() {
    let mut cluster = healthy();
    let first = cluster.wait_primary(LIMIT).unwrap();
    let [host, other] = [0, 1].map(|more: usize| (first + 1 + more) % 3);
    let port = PortLease::hold_many(1).unwrap()[0].port();
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("clients", &user).unwrap();
    let file = directory.path().join("primary");
    let router = format!("router:\n  ports: [{{listen: 127.0.0.1:{port}, mode: read-write}}]\n");
    let files = format!("files:\n  - {{path: {}, template: environment}}\n", file.display());
    let named = |cluster: &Cluster, member: usize| {
        wait::until("the file to name the primary", LIMIT, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let wanted = format!("PGBATON_PRIMARY={}\n", cluster.name(member));
            if text.contains(&wanted) { Ok(()) } else { Err(format!("{text}; {}", cluster.log_ends())) }
        })
        .unwrap();
    };
    let told = |name: &str| directory.path().join(name).display().to_string();
    let events =
        |name: &str| format!("events: {{command: 'echo %e %a >> {}', outbox: {}}}\n", told(name), told("outbox"));
    let plain = give(&cluster, host, &format!("{router}{files}{}", events("first")));
    leads_to(&cluster, port, first);
    named(&cluster, first);
    says(&told("first"), "primary_register ");

    // A port that is in use, and a section that is wrong, are said, and cost the member nothing.
    give(&cluster, other, &router);
    log_says(&cluster, other, "there is no router");
    give(&cluster, first, "files: [{template: environment}]\n");
    log_says(&cluster, first, "files[0].path is missing");
    let answer = cluster.switchover(first, first, Some(host)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    leads_to(&cluster, port, host);
    named(&cluster, host);
    says(&told("first"), &format!("standby_switchover {}\n", cluster.name(host)));

    // Another section is taken without another process.
    std::fs::write(cluster.config(host), format!("{plain}\n{router}{files}{}", events("second"))).unwrap();
    reload(&cluster, host);
    log_says(&cluster, host, "the configuration was read again");
    let answer = cluster.switchover(host, host, Some(first)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    says(&told("second"), &format!("standby_switchover {}\n", cluster.name(first)));
    cluster.wait_healthy(LIMIT).unwrap();
    let answer = cluster.switchover(first, first, Some(host)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster.wait_healthy(LIMIT).unwrap();

    // It ends with its agent, and comes again with the next one.
    cluster.kill(host, Part::Agent).unwrap();
    leads_to(&cluster, port, host);

    // And with a member that is ended in order.
    assert_eq!(cluster.stop_member(host, LIMIT).unwrap(), 0);
    cluster.start(host).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    leads_to(&cluster, port, cluster.wait_primary(LIMIT).unwrap());

    std::fs::write(cluster.config(host), plain).unwrap();
    reload(&cluster, host);
    wait::until("no router any more", LIMIT, || match std::net::TcpStream::connect(("127.0.0.1", port)) {
        Ok(_) => Err("something listens".to_owned()),
        Err(_) => Ok(()),
    })
    .unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
}
