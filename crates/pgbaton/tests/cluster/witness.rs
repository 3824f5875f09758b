//! Two members and a witness: either host may be lost, and so may the witness.

use pgbaton_testkit::cluster::Options;
use pgbaton_testkit::{Cluster, Launch, OsUser, PortLease, Process, TempDir, clock};

use super::{LIMIT, commit_elsewhere, prepared, writes_for, writing};

#[test]
fn a_witness_makes_a_majority_with_either_of_two_members() {
    let port = PortLease::hold().unwrap();
    let address = format!("127.0.0.1:{}", port.port());
    let mut cluster = prepared(Options { members: 2, witnesses: vec![address.clone()], ..super::options() });
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("witness", &user).unwrap();
    let members: Vec<String> = (0..2).map(|member| format!("'{}'", cluster.store_address(member))).collect();
    let text = format!(
        "raft:\n  data_dir: {}/raft\n  self_addr: {address}\n  password: test-raft\n  partner_addrs: [{}]\n",
        directory.path().display(),
        members.join(", ")
    );
    let config = directory.file("witness.yml", &text, &user).unwrap();
    let mut witness = Some(run(&cluster, &directory, &config.display().to_string(), &user));
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let writer = writing(&cluster);

    let first = cluster.wait_primary(LIMIT).unwrap();
    let killed = clock::now();
    cluster.kill_member(first).unwrap();
    let commit = commit_elsewhere(&writer, killed, first);
    assert_eq!(commit.server, 1 - first);
    cluster.start(first).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();

    // Without the witness the two are a majority of three: nothing happens.
    drop(witness.take());
    writes_for(&writer, cluster.options().ttl + 2.0);
    let again = run(&cluster, &directory, &config.display().to_string(), &user);
    writes_for(&writer, 2.0);
    let second = cluster.wait_primary(LIMIT).unwrap();
    assert_eq!(second, 1 - first);
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
    drop(again);
}

fn run(cluster: &Cluster, directory: &TempDir, config: &str, user: &OsUser) -> Process {
    let launch = Launch::new(cluster.program(), directory.path().join("log")).args(["witness", config]).user(user);
    Process::start(&launch).unwrap()
}
