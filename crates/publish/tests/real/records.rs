//! Records in `ZooKeeper` and in an etcd.

use std::process::Command;
use std::time::Duration;

use pgbaton_api::View;
use pgbaton_publish::{Done, Outcome, Place, Record, Report, Settings, TargetSettings, once};
use pgbaton_store::{Op, OpResponse, Store as _, Txn};
use pgbaton_store_etcd::EtcdStore;
use pgbaton_testkit::{Etcd, ZooKeeper, wait};
use pgbaton_types::chain;
use pgbaton_zookeeper::{Acl, Client, Lifetime, Options};
use rustix::process::Signal;

use crate::{LIMIT, Running, WITHIN, view};

/// Where records are in these tests.
const PATH: &str = "/service/demo/primary";
/// How long heartbeats outlive their publishers here.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long they do where nobody waits for that.
const LASTING: Duration = Duration::from_secs(2 * LIMIT.as_secs());

fn client(server: &ZooKeeper) -> Client {
    Client::new(Options { servers: vec![server.address()], session: Duration::from_secs(5), digest: None })
}

fn zookeeper(server: &ZooKeeper, publisher: &str) -> TargetSettings {
    let options = Options { servers: vec![server.address()], session: HEARTBEAT, digest: None };
    let place = Place::ZooKeeper { options, path: PATH.to_owned() };
    TargetSettings { title: "ZooKeeper".to_owned(), publisher: publisher.to_owned(), within: WITHIN, place }
}

fn etcd_options(etcd: &Etcd) -> pgbaton_store_etcd::Options {
    pgbaton_store_etcd::Options { endpoints: etcd.endpoints(), ..pgbaton_store_etcd::Options::default() }
}

fn etcd(etcd: &Etcd, publisher: &str) -> TargetSettings {
    let place = Place::Etcd { options: etcd_options(etcd), key: PATH.to_owned(), heartbeat: HEARTBEAT };
    TargetSettings { title: "etcd".to_owned(), publisher: publisher.to_owned(), within: WITHIN, place }
}

fn targets(targets: &[TargetSettings]) -> Settings {
    Settings { targets: targets.to_vec(), couriers: Vec::new() }
}

/// The same with a heartbeat that outlives every wait.
fn lasting(mut target: TargetSettings) -> TargetSettings {
    match &mut target.place {
        Place::ZooKeeper { options, .. } => options.session = LASTING,
        Place::Etcd { heartbeat, .. } => *heartbeat = LASTING,
    }
    target
}

/// What is at a node.
async fn node(server: &ZooKeeper, path: &str) -> Result<Option<Vec<u8>>, String> {
    let mut client = client(server);
    let node = client.get(path, WITHIN).await.map_err(|error| format!("{error}: {}", server.output()));
    client.close(WITHIN).await;
    Ok(node?.map(|node| node.data))
}

/// What is at a key.
async fn key(store: &EtcdStore, key: &str) -> Result<Option<Vec<u8>>, String> {
    let read = store.txn(Txn::of(vec![Op::get(key)]), WITHIN).await.map_err(|error| chain(&error))?;
    let got = read.responses.into_iter().find_map(|response| match response {
        OpResponse::Got(pair) => pair,
        OpResponse::Put | OpResponse::Deleted(_) => None,
    });
    Ok(got.map(|pair| pair.value))
}

fn primary(bytes: Option<Vec<u8>>) -> Result<String, String> {
    let record: Record = serde_json::from_slice(&bytes.ok_or("nothing")?).map_err(|error| error.to_string())?;
    Ok(format!("{} {}", record.primary.ok_or("no primary")?.name, record.epoch.ok_or("no epoch")?.0))
}

/// The reign that the record at a node names.
async fn at_node(server: &ZooKeeper) -> Result<String, String> {
    primary(node(server, PATH).await?)
}

/// Waits until the record names a reign.
async fn wait_for(wanted: &str, found: impl AsyncFn() -> Result<String, String>) {
    wait::until_async("the record", LIMIT, || async {
        let found = found().await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await
    .unwrap();
}

/// A view that does not become too old while a server starts, however long that takes: shown once, all the rest is the publisher's to do.
fn lasting_view(epoch: u64, revision: u64, primary: &str) -> View {
    let view = view(epoch, revision, primary);
    View { as_of: view.as_of.map(|now| now + LASTING), ..view }
}

async fn ready(server: &ZooKeeper) {
    wait::until_async("ZooKeeper to answer", LIMIT, || async { node(server, "/").await }).await.unwrap();
}

fn outcomes(reports: &[Report]) -> Vec<String> {
    let word = |report: &Report| match &report.result {
        Ok(Done::Record(outcome)) => format!("{outcome:?}"),
        Ok(other) => format!("{other:?}"),
        Err(error) => chain(error.as_ref()),
    };
    reports.iter().map(word).collect()
}

#[tokio::test]
async fn a_record_is_written_over_older_ones_only_whoever_writes() {
    let (server, store) = (ZooKeeper::started().unwrap(), Etcd::start(1).unwrap());
    ready(&server).await;
    let reader = EtcdStore::new(&etcd_options(&store)).unwrap();
    for (publisher, epoch, revision, name, outcome, there) in [
        ("one", 5, 10, "a", Outcome::Written, "a 5"),
        ("one", 5, 11, "a", Outcome::Unchanged, "a 5"),
        ("two", 8, 20, "b", Outcome::Written, "b 8"),
        ("one", 5, 30, "a", Outcome::Older, "b 8"),
        ("one", 8, 19, "a", Outcome::Older, "b 8"),
        ("one", 8, 25, "b", Outcome::Unchanged, "b 8"),
        ("one", 8, 26, "c", Outcome::Written, "c 8"),
    ] {
        let settings = targets(&[zookeeper(&server, publisher), etcd(&store, publisher)]);
        let reports = once(settings, view(epoch, revision, name)).await;
        assert_eq!(outcomes(&reports), [format!("{outcome:?}"), format!("{outcome:?}")], "{epoch} {revision} {name}");
        assert_eq!(primary(node(&server, PATH).await.unwrap()).as_deref(), Ok(there));
        assert_eq!(primary(key(&reader, PATH).await.unwrap()).as_deref(), Ok(there));
    }
}

#[tokio::test]
async fn a_cluster_that_was_made_anew_is_told_from_an_older_reign() {
    let store = Etcd::start(1).unwrap();
    let of = |mut view: View, system_id: &str| {
        view.baton.system_id = Some(system_id.to_owned());
        view
    };
    let publish = async |view: View| outcomes(&once(targets(&[etcd(&store, "one")]), view).await).remove(0);
    assert_eq!(publish(of(view(8, 20, "a"), "1")).await, "Written");
    let refused = publish(of(view(5, 3, "b"), "2")).await;
    assert!(refused.contains("another cluster with this name (system identifier 1, here it is 2)"), "{refused}");
    assert_eq!(publish(of(view(9, 40, "b"), "2")).await, "Written", "upgraded: a later reign");
}

#[tokio::test]
async fn many_publishers_at_once_end_with_the_newest() {
    let (server, store) = (ZooKeeper::started().unwrap(), Etcd::start(1).unwrap());
    ready(&server).await;
    let publishers = (1..=4_u64).map(|number| {
        let name = format!("p{number}");
        let settings = targets(&[zookeeper(&server, &name), etcd(&store, &name)]);
        Running::start(settings, view(number, number, &format!("m{number}")))
    });
    let publishers: Vec<Running> = publishers.collect();
    let reader = EtcdStore::new(&etcd_options(&store)).unwrap();
    wait_for("m4 4", async || at_node(&server).await).await;
    for round in 2..=10 {
        for (number, publisher) in (1..=4).zip(&publishers) {
            publisher.show(view(round * 10 + number, round * 10, &format!("m{number}")));
        }
        let wanted = format!("m4 {}", round * 10 + 4);
        wait_for(&wanted, async || at_node(&server).await).await;
        wait::until_async("the record in etcd", LIMIT, || async {
            let found = primary(key(&reader, PATH).await?)?;
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await
        .unwrap();
    }
    for publisher in publishers {
        publisher.stop().await;
    }
    assert_eq!(primary(node(&server, PATH).await.unwrap()).as_deref(), Ok("m4 104"));
}

#[tokio::test]
async fn a_zookeeper_that_comes_later_or_comes_back_gets_what_holds_then() {
    let mut server = ZooKeeper::prepared().unwrap();
    let running = Running::start(targets(&[zookeeper(&server, "me")]), lasting_view(5, 10, "a"));
    running.show(lasting_view(6, 11, "b"));
    server.start().unwrap();
    wait_for("b 6", async || at_node(&server).await).await;
    server.kill();
    running.show(lasting_view(7, 12, "c"));
    running.show(lasting_view(8, 13, "d"));
    server.start().unwrap();
    wait_for("d 8", async || at_node(&server).await).await;

    // In the middle of a request.
    server.signal(Signal::STOP).unwrap();
    running.show(lasting_view(9, 14, "e"));
    for _ in 0..10 {
        // The publisher's turns, in which it asks.
        tokio::task::yield_now().await;
    }
    server.signal(Signal::CONT).unwrap();
    wait_for("e 9", async || at_node(&server).await).await;
    running.stop().await;
}

#[tokio::test]
async fn an_etcd_that_is_away_and_comes_back_gets_what_holds_then() {
    let mut server = Etcd::start(1).unwrap();
    let reader = EtcdStore::new(&etcd_options(&server)).unwrap();
    let running = Running::start(targets(&[etcd(&server, "me")]), lasting_view(5, 10, "a"));
    wait_for("a 5", async || primary(key(&reader, PATH).await?)).await;
    server.kill(0);
    running.show(lasting_view(6, 11, "b"));
    running.show(lasting_view(7, 12, "c"));
    server.start_member(0).unwrap();
    wait_for("c 7", async || primary(key(&reader, PATH).await?)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_heartbeat_is_there_as_long_as_its_publisher() {
    let (server, store) = (ZooKeeper::started().unwrap(), Etcd::start(1).unwrap());
    ready(&server).await;
    let reader = EtcdStore::new(&etcd_options(&store)).unwrap();
    let beat = format!("{PATH}/publishers/me");
    let there = |wanted: bool| {
        let (server, reader, beat) = (&server, &reader, &beat);
        wait::until_async("the heartbeats", LIMIT, move || async move {
            let found = (node(server, beat).await?.is_some(), key(reader, beat).await?.is_some());
            if found == (wanted, wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        })
    };
    let settings = targets(&[zookeeper(&server, "me"), etcd(&store, "me")]);
    let orderly = settings.targets.iter().cloned().map(lasting).collect();
    let running = Running::start(Settings { targets: orderly, couriers: Vec::new() }, view(5, 10, "a"));
    there(true).await.unwrap();
    running.stop().await;
    // Long before they would run out.
    there(false).await.unwrap();

    let running = Running::start(settings.clone(), view(5, 10, "a"));
    there(true).await.unwrap();
    // Without a word, as a process that is killed.
    running.task.abort();
    there(false).await.unwrap();
    let running = Running::start(settings, view(5, 10, "a"));
    there(true).await.unwrap();
    running.stop().await;
    assert_eq!(primary(node(&server, PATH).await.unwrap()).as_deref(), Ok("a 5"), "the record stays");
}

#[tokio::test]
async fn a_record_that_somebody_has_removed_is_written_again() {
    let store = Etcd::start(1).unwrap();
    let reader = EtcdStore::new(&etcd_options(&store)).unwrap();
    let running = Running::start(targets(&[etcd(&store, "me")]), view(5, 10, "a"));
    let there = || {
        wait::until_async("the record", LIMIT, || async {
            running.show(view(5, 10, "a"));
            primary(key(&reader, PATH).await?)
        })
    };
    there().await.unwrap();
    reader.txn(Txn::of(vec![Op::delete(PATH)]), WITHIN).await.unwrap();
    there().await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone_and_what_does_not_work_is_said() {
    let (server, store) = (ZooKeeper::started().unwrap(), Etcd::start(1).unwrap());
    ready(&server).await;
    let mut own = client(&server);
    own.create_with_parents(PATH, b"mine", Lifetime::Persistent, Acl::Open, WITHIN).await.unwrap();
    let writer = EtcdStore::new(&etcd_options(&store)).unwrap();
    let other = Record { scope: "other".to_owned(), ..serde_json::from_str(RECORD).unwrap() };
    let text = serde_json::to_string(&other).unwrap();
    writer.txn(Txn::of(vec![Op::put(PATH, text.clone())]), WITHIN).await.unwrap();
    let settings = targets(&[zookeeper(&server, "me"), etcd(&store, "me")]);
    let said = outcomes(&once(settings, view(5, 10, "a")).await);
    let wanted = [
        format!("what is at {PATH} is no record of pgbaton: remove it, or publish elsewhere"),
        format!("the record at {PATH} is of the cluster other: publish each cluster in a place of its own"),
    ];
    assert_eq!(said, wanted);
    assert_eq!(own.get(PATH, WITHIN).await.unwrap().unwrap().data, b"mine");
    assert_eq!(key(&writer, PATH).await.unwrap(), Some(text.into_bytes()));

    for arguments in
        [["user", "add", "root:right"].as_slice(), &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        let mut etcdctl = Command::new("/usr/bin/etcdctl");
        etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", store.endpoint(0))).args(arguments);
        let done = etcdctl.output().unwrap();
        assert!(done.status.success(), "{arguments:?} {done:?}");
    }
    let mut wrong = etcd(&store, "me");
    let options =
        pgbaton_store_etcd::Options { user: Some(("root".to_owned(), "wrong".to_owned())), ..etcd_options(&store) };
    wrong.place = Place::Etcd { options, key: PATH.to_owned(), heartbeat: HEARTBEAT };
    let mut away = zookeeper(&server, "me");
    drop(server);
    away.within = Duration::from_secs(1);
    let said = outcomes(&once(targets(&[wrong, away]), view(5, 10, "a")).await);
    assert!(said[0].contains("authentication failed, invalid user ID or password"), "{said:?}");
    assert!(said[1].starts_with("ZooKeeper: no connection to 127.0.0.1:"), "{said:?}");
}

/// A record as somebody may have written it.
const RECORD: &str = r#"{"version":1,"scope":"demo","epoch":99,"revision":1,"timeline":null,"primary":null,"standbys":[],"written_by":"me"}"#;
