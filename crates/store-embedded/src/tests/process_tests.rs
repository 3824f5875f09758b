use std::io::Write;

use pgbaton_store::{Op, Store, Txn};
use rustix::process::Signal;

use super::cluster::{Cluster, DEADLINE};
use super::lease_tests::Held;
use super::process::{Process, child_store};

/// Counts up in the store for ever, and says each number that was acknowledged.
async fn count(store: &dyn Store) {
    let snapshot = store.snapshot("/count", DEADLINE).await.unwrap();
    let found = snapshot.get("/count").map_or(0, |item| String::from_utf8_lossy(&item.value).parse::<u64>().unwrap());
    // Written past the harness, which would hold it back.
    let mut output = std::io::stdout();
    writeln!(output, "\nfound={found}").unwrap();
    for number in found + 1.. {
        store.txn(Txn::of(vec![Op::put("/count", number.to_string())]), DEADLINE).await.unwrap();
        writeln!(output, "\nacknowledged={number}").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_voter_loses_nothing_that_it_acknowledged() {
    if let Some(store) = child_store().await {
        return count(store.as_ref()).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let test = "tests::process_tests::a_killed_voter_loses_nothing_that_it_acknowledged";
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let mut process = Process::spawn(test, None, directory.path(), "", &[]);
        let found: u64 = process.line("found=").expect("the store opens").parse().unwrap();
        assert!(found >= acknowledged, "round {round}: {acknowledged} was acknowledged, {found} is there");
        for _ in 0..(round * 7) % 23 {
            acknowledged = process.line("acknowledged=").unwrap().parse().unwrap();
        }
        process.signal(Signal::KILL);
        // What it said before it was killed counts as well.
        while let Some(number) = process.line("acknowledged=") {
            acknowledged = number.parse().unwrap();
        }
    }
    assert!(acknowledged > 50, "hardly anything was written: {acknowledged}");
}

/// A child that only takes part.
async fn take_part_if_child() -> bool {
    let Some(_store) = child_store().await else { return false };
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_ends_no_lease_early_nor_when_it_is_back() {
    if take_part_if_child().await {
        return;
    }
    let mut cluster = Cluster::new(3);
    let test = "tests::process_tests::a_frozen_leader_ends_no_lease_early_nor_when_it_is_back";
    let processes = [cluster.spawn(1, test), cluster.spawn(2, test)];
    let store = cluster.start(0).await;
    cluster.formed().await;
    store.prefer_not_leading(true);
    let leader = super::cluster::until("another member to lead", || {
        let leader = store.status().leader.filter(|leader| *leader != store.status().node_id)?;
        let address = store.members().into_iter().find(|voter| voter.id == leader)?.address;
        (1..3).find(|member| cluster.address(*member) == address)
    })
    .await;
    let mut held = Held::take(store.clone()).await;
    held.renew_for_a_while().await;
    processes[leader - 1].signal(Signal::STOP);
    held.renew_for_a_while().await;
    processes[leader - 1].signal(Signal::CONT);
    held.renew_for_a_while().await;
    held.let_go().await;
    drop(processes);
    cluster.shutdown().await;
}
