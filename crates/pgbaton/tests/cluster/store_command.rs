//! `pgbaton store`: looks at the store itself, and takes the vote of a member that is gone.

use std::process::{Command, Output};

use pgbaton_testkit::Cluster;
use serde_json::Value;

use super::{LIMIT, healthy, others};

#[test]
fn the_store_is_looked_at_and_a_lost_member_loses_its_vote() {
    let mut cluster = healthy();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let status = json(&cluster, &["store", "status"]);
    let rows = status.as_array().unwrap();
    assert_eq!(rows.len(), 3, "{status}");
    assert_eq!(rows.iter().filter(|row| row["Leads"] == true).count(), 1, "{status}");
    assert!(rows.iter().all(|row| row["Problem"].is_null() && row["Leader"] == rows[0]["Leader"]), "{status}");

    let before = voters(&cluster);
    assert_eq!(before.len(), 3);
    let lost = others(primary)[0];
    let id = voter_at(&before, &cluster, lost);
    let refused = pgbaton(&cluster, primary, &["store", "remove", &id, "--force"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("runs, and would join again: stop it first"), "{said}");
    let unknown = pgbaton(&cluster, primary, &["store", "remove", "1234", "--force"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no voter 0000000000001234"), "{unknown:?}");

    cluster.kill_member(lost).unwrap();
    let removed = json(&cluster, &["store", "remove", &id, "--force"]);
    assert_eq!(removed["Left"], 2, "{removed}");
    assert_eq!(voters(&cluster).len(), 2);
    let add = pgbaton(&cluster, primary, &["store", "add", "http://127.0.0.1:1"]);
    assert!(String::from_utf8_lossy(&add.stderr).contains("adds itself"), "{add:?}");

    // It comes back after all: then it has a vote again.
    cluster.start(lost).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
        .awaiting("three voters", LIMIT, || {
            let now = voters(&cluster);
            Ok(if now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) })
        })
        .unwrap();
}

fn voters(cluster: &Cluster) -> Vec<Value> {
    json(cluster, &["store", "members"]).as_array().unwrap().clone()
}

/// The number of the voter of a member.
fn voter_at(voters: &[Value], cluster: &Cluster, member: usize) -> String {
    let address = cluster.store_address(member).to_string();
    let voter = voters.iter().find(|voter| voter["Address"] == address.as_str());
    voter.and_then(|voter| voter["Id"].as_str()).unwrap_or_else(|| panic!("{address} in {voters:?}")).to_owned()
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let output = pgbaton(cluster, primary, &[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn pgbaton(cluster: &Cluster, member: usize, arguments: &[&str]) -> Output {
    Command::new(cluster.program()).arg("-c").arg(cluster.config(member)).args(arguments).output().unwrap()
}
