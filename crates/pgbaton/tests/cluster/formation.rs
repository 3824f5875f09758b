//! Members form the cluster in whatever order they start, again after a lost disk and after a wiped store.

use pgbaton_testkit::Cluster;
use pgbaton_testkit::cluster::Part;

use super::{LIMIT, prepared, value, wait_for_value};

#[test]
fn the_last_of_the_list_may_be_the_first_to_start() {
    let mut cluster = prepared(super::options());
    for member in [2, 1, 0] {
        cluster.start(member).unwrap();
        listens(&cluster, member);
    }
    cluster.wait_healthy(LIMIT).unwrap();
    let (identity, rows) = (cluster.system_id(0).unwrap(), with_rows(&cluster));

    lost_disk(&mut cluster, identity, &rows);
    wiped_store(&mut cluster, identity, &rows);
}

/// One that comes back with nothing gets a new voter, a new copy, and never leads before that.
fn lost_disk(cluster: &mut Cluster, identity: u64, rows: &str) {
    let primary = cluster.wait_primary(LIMIT).unwrap();
    cluster.kill_member(primary).unwrap();
    cluster.lose_disk(primary).unwrap();
    cluster.start(primary).unwrap();
    whole(cluster, identity, rows);
    assert_ne!(cluster.wait_primary(LIMIT).unwrap(), primary, "a member without data leads");
}

/// Data without history: the members agree on who has it, and nobody makes a new cluster.
fn wiped_store(cluster: &mut Cluster, identity: u64, rows: &str) {
    for member in 0..cluster.size() {
        cluster.terminate(member).unwrap();
    }
    for member in 0..cluster.size() {
        cluster
            .awaiting("the end of all members", LIMIT, || {
                let left = cluster.pids(member, Part::All)?;
                Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
            })
            .unwrap();
        cluster.lose_store(member).unwrap();
    }
    for member in [1, 2, 0] {
        cluster.start(member).unwrap();
        listens(cluster, member);
    }
    whole(cluster, identity, rows);
}

fn whole(cluster: &Cluster, identity: u64, rows: &str) {
    cluster.wait_healthy(LIMIT).unwrap();
    for member in 0..cluster.size() {
        assert_eq!(cluster.system_id(member).unwrap(), identity, "member {member} is of another cluster");
        wait_for_value(cluster, member, "SELECT count(*) FROM kept", rows);
    }
}

/// Rows that all servers have.
pub(crate) fn with_rows(cluster: &Cluster) -> String {
    let primary = cluster.wait_primary(LIMIT).unwrap();
    cluster.sql(primary, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id").unwrap();
    let rows = value(cluster, primary, "SELECT count(*) FROM kept");
    for member in 0..cluster.size() {
        cluster
            .awaiting("the rows on every member", LIMIT, || {
                let found = cluster.sql(member, "SELECT count(*) FROM kept")?;
                Ok(if found[0][0].as_deref() == Some(&rows) { Ok(()) } else { Err(format!("{found:?}")) })
            })
            .unwrap();
    }
    rows
}

pub(crate) fn listens(cluster: &Cluster, member: usize) {
    cluster
        .awaiting("a member's REST server", LIMIT, || {
            Ok(Ok(cluster.rest(member, "GET", "/liveness", "", LIMIT).map(|_| ())?))
        })
        .unwrap();
}
