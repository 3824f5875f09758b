//! Patroni's own command line looks at a cluster of ours, in the etcd that both use.

use std::path::Path;
use std::process::Command;

use pgbaton_testkit::{Cluster, Venv};
use serde_json::Value;

use super::{LIMIT, healthy, others};

/// The release that is compared with elsewhere, too.
const PACKAGES: [&str; 2] = ["patroni[etcd3,psycopg3]==4.1.5", "psycopg[binary]"];

#[test]
fn patronictl_lists_the_cluster_as_its_own() {
    let environment = Venv::install(Path::new(env!("CARGO_TARGET_TMPDIR")), "patronictl", &PACKAGES).unwrap();
    let mut cluster = healthy();
    let endpoint = cluster.etcd().unwrap().endpoint(0);
    let config = cluster.socket_dir(0).join("patronictl.yml");
    std::fs::write(&config, format!("scope: test\netcd3:\n  host: {endpoint}\n")).unwrap();
    let patronictl = |arguments: &[&str]| {
        let output =
            Command::new(environment.program("patronictl")).arg("-c").arg(&config).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let primary = cluster.wait_primary(LIMIT).unwrap();
    cluster
        .awaiting("patronictl to show what there is", LIMIT, || {
            let listed: Value = serde_json::from_str(&patronictl(&["list", "-f", "json"])).unwrap();
            Ok(if shows(&listed, &cluster, primary) { Ok(()) } else { Err(listed.to_string()) })
        })
        .unwrap();
    let shown = patronictl(&["show-config"]);
    assert!(shown.contains("maximum_lag_on_failover: 1048576"), "{shown}");
    // Patroni's command asks our member's REST API to hand over, and waits for what it sees in etcd.
    let to = others(primary)[0];
    let said =
        patronictl(&["switchover", "--leader", cluster.name(primary), "--candidate", cluster.name(to), "--force"]);
    assert!(said.contains("Successfully switched over"), "{said}");
    assert_eq!(cluster.wait_primary(LIMIT).unwrap(), to);
    let history = patronictl(&["history", "-f", "json"]);
    assert!(history.contains("no recovery target specified") && history.contains(cluster.name(to)), "{history}");
}

fn shows(listed: &Value, cluster: &Cluster, primary: usize) -> bool {
    let rows = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |member: usize| rows.iter().find(|row| row["Member"] == cluster.name(member));
    rows.len() == cluster.size()
        && (0..cluster.size()).all(|member| {
            row(member).is_some_and(|row| {
                let (role, state) = if member == primary { ("Leader", "running") } else { ("Replica", "streaming") };
                row["Role"] == role && row["State"] == state && row["TL"] == 1
            })
        })
}
