//! `pgbaton store` where the store is a real etcd.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::process::{Command, Output};

use pgbaton_testkit::{Etcd, OsUser, TempDir, wait};
use serde_json::Value;

/// Far above what etcd takes to find itself together.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

#[test]
fn an_etcd_is_looked_at_and_looked_after() {
    let mut etcd = Etcd::start(3).unwrap();
    let directory = TempDir::new("etcd", &OsUser::for_servers().unwrap()).unwrap();
    let config = directory.path().join("a.yml");
    // One endpoint is enough: it knows the others.
    let text = format!(
        "name: a\nscope: s\nrestapi: {{listen: '127.0.0.1:8008'}}\npostgresql:\n  listen: 127.0.0.1:5432\n  data_dir: /data/a\n  \
         authentication: {{replication: {{username: r}}}}\netcd3:\n  host: {}\n",
        etcd.endpoint(0)
    );
    std::fs::write(&config, text).unwrap();
    let status = wait::until("an etcd with a leader", LIMIT, || {
        let output = pgbaton(&config, &["store", "status", "--format", "json"]);
        let rows: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
        let led =
            rows.as_array().is_some_and(|rows| rows.len() == 3 && rows.iter().all(|row| row["Leader"].is_string()));
        if led { Ok(rows) } else { Err(rows.to_string()) }
    })
    .unwrap();
    let rows = status.as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["Leads"] == true).count(), 1, "{status}");
    assert!(rows.iter().all(|row| row["Leader"] == rows[0]["Leader"]), "{status}");

    let members = json(&config, &["store", "members"]);
    let id = |member: usize| {
        let address = etcd.peer_endpoint(member);
        let found = members.as_array().unwrap().iter().find(|row| row["Address"] == address.as_str());
        found.unwrap_or_else(|| panic!("{address} in {members}"))["Id"].as_str().unwrap().to_owned()
    };
    // Not the leader: while etcd elects, it changes nothing.
    let leads = |member: usize| {
        let endpoint = etcd.endpoint(member);
        rows.iter().any(|row| row["Endpoint"] == endpoint.as_str() && row["Leads"] == true)
    };
    let victim = if leads(2) { 1 } else { 2 };
    let (lost, peer_url) = (id(victim), format!("http://{}", etcd.peer_endpoint(victim)));
    let done = json(&config, &["store", "defrag"]);
    let done = done.as_array().unwrap();
    assert_eq!(done.len(), 3);
    assert!(done.iter().all(|row| row["BytesAfter"].as_u64() > Some(0)), "{done:?}");

    etcd.kill(victim);
    assert_eq!(json(&config, &["store", "remove", &lost, "--force"])["Left"], 2);
    assert_eq!(json(&config, &["store", "members"]).as_array().unwrap().len(), 2);
    // etcd takes a member in when the others have been connected for five seconds.
    let added: Value = wait::until("a member that is let in", LIMIT, || {
        let output = pgbaton(&config, &["store", "add", &peer_url, "--format", "json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("unhealthy cluster") && !said.contains("outcome"), "{said}");
        serde_json::from_slice(&output.stdout).map_err(|_| said)
    })
    .unwrap();
    assert_eq!(added["PeerUrl"], peer_url.as_str());
    let members = json(&config, &["store", "members"]);
    assert!(members.as_array().unwrap().iter().any(|row| row["Id"] == added["Id"]), "{members}");
    // One of the three runs nowhere: it counts, and two others are a majority.
    let status = json(&config, &["store", "status"]);
    assert!(status.as_array().unwrap().iter().any(|row| row["Leads"] == true), "{status}");
}

fn json(config: &Path, arguments: &[&str]) -> Value {
    let output = pgbaton(config, &[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn pgbaton(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgbaton")).arg("-c").arg(config).args(arguments).output().unwrap()
}
