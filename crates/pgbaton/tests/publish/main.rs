//! `pgbaton publish` beside a real cluster, with `ZooKeeper`, an etcd of its own, an HTTP server and a shell.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../cluster/common.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod common;
#[path = "../../../publish/tests/real/hook.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod hook;

use std::process::{Command, Output};
use std::time::Duration;

use common::*;
use hook::{Answer, Hook};
use pgbaton_publish::Record;
use pgbaton_store::{Op, OpResponse, Store as _, Txn};
use pgbaton_store_etcd::EtcdStore;
use pgbaton_testkit::cluster::{Part, StoreKind};
use pgbaton_testkit::{Cluster, Etcd, Launch, OsUser, Process, TempDir, ZooKeeper, wait};
use pgbaton_types::chain;
use pgbaton_zookeeper::{Client, Options};
use rustix::process::Signal;
use tokio::runtime::Runtime;

/// The store of the clusters here.
const STORE: StoreKind = StoreKind::Embedded;
/// Where the records are.
const PATH: &str = "/service/test/primary";
/// Longest time for one request.
const WITHIN: Duration = Duration::from_secs(5);

/// Where records go, and how they are read.
struct Places {
    zookeeper: ZooKeeper,
    etcd: Etcd,
    runtime: Runtime,
}

impl Places {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let places = Self { zookeeper: ZooKeeper::started().unwrap(), etcd: Etcd::start(1).unwrap(), runtime };
        wait::until("ZooKeeper to answer", LIMIT, || places.node("/").map(drop)).unwrap();
        wait::until("etcd to answer", LIMIT, || places.key("/").map(drop)).unwrap();
        places
    }

    /// The section `publish` of a publisher of this name.
    fn section(&self, name: &str) -> String {
        format!(
            "publish:
  - zookeeper: {{hosts: '{}', path: {PATH}, name: {name}, session: 2}}
  - etcd: {{hosts: '{}', path: {PATH}, name: {name}, heartbeat: 2}}
",
            self.zookeeper.address(),
            self.etcd.endpoint(0)
        )
    }

    fn node(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.runtime.block_on(async {
            let servers = vec![self.zookeeper.address()];
            let mut client = Client::new(Options { servers, session: Duration::from_secs(5), digest: None });
            let node = client.get(path, Duration::from_secs(1)).await.map_err(|error| chain(&error));
            client.close(WITHIN).await;
            Ok(node?.map(|node| node.data))
        })
    }

    fn key(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        self.runtime.block_on(async {
            let options = pgbaton_store_etcd::Options {
                endpoints: self.etcd.endpoints(),
                ..pgbaton_store_etcd::Options::default()
            };
            let store = EtcdStore::new(&options).map_err(|error| chain(&error))?;
            let read = store.txn(Txn::of(vec![Op::get(key)]), WITHIN).await.map_err(|error| chain(&error))?;
            Ok(read.responses.into_iter().find_map(|response| match response {
                OpResponse::Got(pair) => pair.map(|pair| pair.value),
                OpResponse::Put | OpResponse::Deleted(_) => None,
            }))
        })
    }

    /// The two records.
    fn records(&self) -> Result<[Record; 2], String> {
        let read = |bytes: Option<Vec<u8>>| {
            serde_json::from_slice::<Record>(&bytes.ok_or("nothing is published")?).map_err(|error| error.to_string())
        };
        Ok([read(self.node(PATH)?)?, read(self.key(PATH)?)?])
    }

    /// Waits until both name a member with so many standbys that stream.
    fn wait_for(&self, primary: &str, standbys: usize, publisher: &Publisher) -> [Record; 2] {
        wait::until(&format!("records that name {primary}"), LIMIT, || {
            let records = self.records().map_err(|error| format!("{error}: {}", publisher.process.output()))?;
            let names = |record: &Record| record.primary.as_ref().is_some_and(|server| server.name.as_str() == primary);
            let streams = |record: &Record| {
                record.standbys.iter().filter(|standby| standby.streaming == Some(true)).count() == standbys
            };
            let all = records.iter().all(|record| names(record) && streams(record));
            if all { Ok(records) } else { Err(format!("{records:?} {}", publisher.process.output())) }
        })
        .unwrap()
    }

    /// Waits until a publisher's heartbeats are there, or not.
    fn wait_for_heartbeats(&self, name: &str, wanted: bool) {
        let path = format!("{PATH}/publishers/{name}");
        wait::until(&format!("the heartbeats of {name}"), LIMIT, || {
            let found = (self.node(&path)?.is_some(), self.key(&path)?.is_some());
            if found == (wanted, wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .unwrap();
    }
}

/// `pgbaton publish --watch`.
struct Publisher {
    process: Process,
    directory: TempDir,
}

impl Publisher {
    fn start(cluster: &Cluster, sections: &str) -> Self {
        let user = OsUser::for_servers().unwrap();
        let directory = configured(cluster, sections);
        let config = directory.path().join("publish.yml").display().to_string();
        let launch = Launch::new(env!("CARGO_BIN_EXE_pgbaton"), directory.path().join("log"))
            .args(["publish", &config, "--watch"]);
        Self { process: Process::start(&launch.user(&user)).unwrap(), directory }
    }
}

fn configured(cluster: &Cluster, sections: &str) -> TempDir {
    let user = OsUser::for_servers().unwrap();
    let directory = TempDir::new("publish", &user).unwrap();
    let sections = sections.replace("DIR", &directory.path().display().to_string());
    directory.file("publish.yml", &format!("scope: test\n{}{sections}", cluster.client_section()), &user).unwrap();
    directory
}

fn once(directory: &TempDir, arguments: &[&str]) -> Output {
    let config = directory.path().join("publish.yml");
    Command::new(env!("CARGO_BIN_EXE_pgbaton")).arg("publish").arg(config).args(arguments).output().unwrap()
}

/// `outcome` or `error` of each row.
fn outcomes(output: &Output) -> Vec<String> {
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let word =
        |row: &serde_json::Value| row["error"].as_str().or(row["outcome"].as_str()).unwrap_or_default().to_owned();
    rows.as_array().into_iter().flatten().map(word).collect()
}

#[test]
fn a_switchover_is_published_everywhere_and_told_in_repmgrs_words() {
    let (cluster, places) = (healthy(), Places::start());
    let first = cluster.wait_primary(LIMIT).unwrap();
    let hook = Hook::start(vec![Answer::Status(200)]);
    let sections = format!(
        "{}  - webhook: {{url: 'http://{}/', secret: s3cret, outbox: DIR/outbox}}
events:
  command: 'echo %n %e %s \"%p\" \"%d\" >> DIR/told'
  outbox: DIR/outbox
",
        places.section("watcher"),
        hook.address
    );
    let publisher = Publisher::start(&cluster, &sections);
    let before = places.wait_for(cluster.name(first), 2, &publisher);
    places.wait_for_heartbeats("watcher", true);
    let answer = cluster.switchover(first, first, None).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let second = cluster.wait_primary(LIMIT).unwrap();
    let after = places.wait_for(cluster.name(second), 2, &publisher);
    for (before, after) in before.iter().zip(&after) {
        assert!(after.epoch > before.epoch && after.timeline > before.timeline, "{before:?} {after:?}");
        let port = cluster.postgres_port(second);
        assert_eq!(after.primary.as_ref().unwrap().conninfo, format!("host=127.0.0.1 port={port}"));
        assert_eq!((after.scope.as_str(), after.written_by.as_str()), ("test", "watcher"));
    }

    let third = (0..3).find(|member| ![first, second].contains(member)).unwrap();
    let [old, new, other] = [first, second, third].map(|member| cluster.name(member));
    wait::until("all events", LIMIT, || {
        let found: Vec<String> = hook.events().into_iter().map(|(_, name)| name).collect();
        let all = ["node_rejoin", "standby_follow"].iter().all(|name| found.iter().any(|found| found == name));
        if all { Ok(()) } else { Err(format!("{found:?} {}", publisher.process.output())) }
    })
    .unwrap();
    let events: Vec<String> =
        hook.got().iter().map(|got| format!("{} {}", got.event().event, got.event().member)).collect();
    let position = |event: String| {
        events.iter().position(|found| *found == event).unwrap_or_else(|| panic!("{event}: {events:?}"))
    };
    assert_eq!(position(format!("primary_register {old}")), 0);
    let promoted = position(format!("standby_promote {new}"));
    assert_eq!(position(format!("standby_switchover {new}")), promoted + 1);
    assert!(
        position(format!("standby_follow {other}")) > promoted && position(format!("node_rejoin {old}")) > promoted
    );
    assert!(!events.iter().any(|event| event.contains("failover") || event.contains("local_disconnect")), "{events:?}");
    let numbers: Vec<u64> = hook.events().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let wanted = format!(
        "{new} standby_switchover 1 {old} standby {new} was promoted to primary, primary {old} demoted to standby\n"
    );
    // The command has a courier of its own.
    wait::until("the command's word of the switchover", LIMIT, || {
        let told =
            std::fs::read_to_string(publisher.directory.path().join("told")).map_err(|error| error.to_string())?;
        if told.contains(&wanted) { Ok(()) } else { Err(told) }
    })
    .unwrap();
}

#[test]
fn a_publisher_that_was_stopped_over_a_failover_cannot_overwrite_what_came_after() {
    let (mut cluster, places) = (healthy(), Places::start());
    let first = cluster.wait_primary(LIMIT).unwrap();
    let old = Publisher::start(&cluster, &places.section("old"));
    places.wait_for(cluster.name(first), 2, &old);
    places.wait_for_heartbeats("old", true);
    old.process.signal(Signal::STOP).unwrap();
    let new = Publisher::start(&cluster, &places.section("new"));
    places.wait_for_heartbeats("new", true);
    cluster.kill(first, Part::All).unwrap();
    let second = cluster
        .awaiting("another primary", LIMIT, || {
            let leader = cluster.leader()?;
            Ok(leader.filter(|leader| *leader != first).ok_or_else(|| format!("{leader:?}")))
        })
        .unwrap();
    places.wait_for(cluster.name(second), 1, &new);
    places.wait_for_heartbeats("old", false);
    drop(new);
    old.process.signal(Signal::CONT).unwrap();
    // It lives again, and has written what it had in mind before.
    places.wait_for_heartbeats("old", true);
    for record in places.wait_for(cluster.name(second), 1, &old) {
        assert_eq!(record.written_by, "new", "what it says is there already");
    }
    let log = old.process.output();
    assert!(!log.split("published").skip(1).any(|line| line.contains(cluster.name(second))), "{log}");
}

#[test]
fn it_publishes_once_and_says_what_does_not_work() {
    let (cluster, places) = (healthy(), Places::start());
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let hook = Hook::start(vec![Answer::Status(503), Answer::Status(200)]);
    let section = |name: &str| {
        format!("{}  - webhook: {{url: 'http://{}/', outbox: DIR/outbox}}\n", places.section(name), hook.address)
    };
    let directory = configured(&cluster, &section("me"));
    let first = once(&directory, &["--format", "json"]);
    assert_eq!(first.status.code(), Some(1));
    assert_eq!(
        outcomes(&first),
        ["written", "written", "event 1 (primary_register): the server answers 503 Service Unavailable"]
    );
    let second = once(&directory, &[]);
    let said = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(second.status.success() && said.contains("3 events delivered"), "{second:?}");
    assert!(said.contains(&format!("ZooKeeper {PATH}")) && said.contains("unchanged"), "{said}");
    let name = |record: &Record| record.primary.as_ref().unwrap().name.as_str().to_owned();
    assert_eq!(places.records().unwrap().each_ref().map(name), [cluster.name(primary), cluster.name(primary)]);

    for (sections, wanted) in [
        ("files: []\n", "none of the sections publish, events is there"),
        ("publish: [zookeeper]\n", "publish[0]: expected one of zookeeper, etcd and webhook, with its keys"),
        (
            "publish:\n  - zookeeper: {hosts: 'a:1', path: service}\n",
            "publish[0].zookeeper.path: expected a node such as /service/demo/primary",
        ),
        ("publish:\n  - zookeeper: {path: /a}\n", "publish[0].zookeeper.hosts is missing"),
        ("publish:\n  - zookeeper: {hosts: 'a:1', path: /a, user: me}\n", "publish[0].zookeeper.user is not known"),
        ("publish:\n  - etcd: {path: /a}\n", "publish[0].etcd.hosts is missing"),
        (
            "publish:\n  - etcd: {hosts: 'a:1', path: /a/}\n",
            "publish[0].etcd.path: expected a key such as /demo/primary",
        ),
        (
            "publish:\n  - webhook: {url: 'ftp://t0psecret', outbox: /o}\n",
            "publish[0].webhook.url: expected a URL such as",
        ),
        ("publish:\n  - webhook: {url: 'http://a'}\n", "publish[0].webhook.outbox is missing"),
        (
            "publish:\n  - webhook: {url: 'http://a', outbox: o}\n",
            "publish[0].webhook.outbox: 'o' is not an absolute path",
        ),
        (
            "events: {command: a, outbox: /o, only: [standby_promoted]}\n",
            "events.only: there is no event 'standby_promoted'",
        ),
        ("events: {outbox: /o}\n", "events.command is missing"),
        ("events: {command: a, outbox: /o, of: own}\n", "name is missing: whose events are meant by 'of: own'?"),
        (
            "publish:\n  - webhook: {url: 'http://a', outbox: /o, name: x}\nevents: {command: a, outbox: /o, name: x}\n",
            "publish: two consumers have the outbox /o and the name x",
        ),
    ] {
        let directory = configured(&cluster, sections);
        let output = once(&directory, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(wanted), "{sections}: {said}");
        assert!(!said.contains("t0psecret"), "{said}");
    }
}
