//! Measures the embedded store on this machine's disk: `cargo run --release --example measure [DIRECTORY]`.
//! The figures in `docs/adr/0001-raft-log-in-own-segments.md` come from here.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool that prints, and that ends at the first problem")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_store::{Op, Renewal, Store, Txn};
use pgbaton_store_embedded::{EmbeddedStore, Listen, Options};
use pgbaton_types::BootTime;

const DEADLINE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 300;

fn now() -> BootTime {
    BootTime(pgbaton_sys::clock::boottime())
}

fn memory(when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    println!("{when}: {}", anonymous.split_whitespace().collect::<Vec<_>>().join(" "));
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (count, total) = (times.len(), times.iter().sum::<Duration>());
    println!(
        "{what}: median {:?}, 99 % {:?}, {:.0} each second",
        times[count / 2],
        times[count * 99 / 100],
        count as f64 / total.as_secs_f64()
    );
}

async fn puts(what: &str, store: &dyn Store) {
    let mut times = Vec::new();
    for number in 0..ROUNDS {
        let before = now();
        let key = format!("/members/{}", number % 3);
        store.txn(Txn::of(vec![Op::put(key, vec![7; 400])]), DEADLINE).await.unwrap();
        times.push(now().since(before));
    }
    say(what, times);
}

async fn renewals(what: &str, store: &dyn Store) {
    let lease = store.lease_grant(Duration::from_secs(10), DEADLINE).await.unwrap().id;
    let taken = store.txn(Txn::of(vec![Op::put_leased("/leader", "me", lease)]), DEADLINE).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let before = now();
        let leader_key = "/leader".to_owned();
        let renewal = Renewal { lease, leader_key, epoch_create_revision: taken.revision };
        store.renew(renewal, DEADLINE).await.unwrap();
        times.push(now().since(before));
    }
    say(what, times);
}

async fn at_once(store: &Arc<EmbeddedStore>) {
    let before = now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for _ in 0..50 {
                let put = Op::put(format!("/writer/{writer}"), vec![7; 400]);
                store.txn(Txn::of(vec![put]), DEADLINE).await.unwrap();
            }
        });
    }
    while writers.join_next().await.is_some() {}
    println!("16 writers at once: {:.0} puts each second", 800.0 / now().since(before).as_secs_f64());
}

async fn open(directory: PathBuf, listeners: &[TcpListener], member: usize) -> Arc<EmbeddedStore> {
    let address = |member: usize| listeners[member].local_addr().unwrap().to_string();
    let options = Options {
        listen: Some(Listen::On(listeners[member].try_clone().unwrap())),
        self_address: address(member),
        partner_addresses: (0..listeners.len()).filter(|other| *other != member).map(address).collect(),
        ..Options::alone(directory)
    };
    EmbeddedStore::open(options).await.unwrap()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let base = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/measure".to_owned()));
    std::fs::remove_dir_all(&base).ok();
    memory("before");
    let alone = EmbeddedStore::open(Options::alone(base.join("alone"))).await.unwrap();
    memory("one voter, opened");
    puts("one voter, put", alone.as_ref()).await;
    renewals("one voter, renewal", alone.as_ref()).await;
    memory("then");
    at_once(&alone).await;
    memory("after that");
    alone.shutdown().await;

    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let started = now();
    let mut stores = Vec::new();
    for member in 0..3 {
        stores.push(open(base.join(format!("member-{member}")), &listeners, member).await);
    }
    for store in &stores {
        store.formed().wait_for(|formed| *formed).await.unwrap();
    }
    println!("three voters formed from nothing: {:?}", now().since(started));
    let leading = |stores: &[Arc<EmbeddedStore>]| stores.iter().position(|store| store.status().is_leader).unwrap();
    puts("three voters, put through the leader", stores[leading(&stores)].as_ref()).await;
    puts("three voters, put through a follower", stores[(leading(&stores) + 1) % 3].as_ref()).await;
    renewals("three voters, renewal through a follower", stores[(leading(&stores) + 1) % 3].as_ref()).await;
    let mut times = Vec::new();
    for _ in 0..7 {
        let leader = leading(&stores);
        let other = Arc::clone(&stores[(leader + 1) % 3]);
        let before = now();
        stores[leader].shutdown().await;
        other.txn(Txn::of(vec![Op::put("/a", "x")]), DEADLINE).await.unwrap();
        times.push(now().since(before));
        stores[leader] = open(base.join(format!("member-{leader}")), &listeners, leader).await;
        stores[leader].formed().wait_for(|formed| *formed).await.unwrap();
    }
    say("leader gone until the next put", times);
    for store in stores {
        store.shutdown().await;
    }
    std::fs::remove_dir_all(&base).ok();
}
