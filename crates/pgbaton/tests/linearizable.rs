//! The embedded store tells one story, whatever happens to its voters: what concurrent clients were answered while voters are killed and
//! frozen can be put in one order, and no lease ends before its time.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_store::{Compare, Op, OpResponse, Renewal, Store, StoreError, Txn};
use pgbaton_store_etcd::{EtcdStore, Options};
use pgbaton_testkit::linear::{Call, Model, is_linearizable};
use pgbaton_testkit::user::is_root;
use pgbaton_testkit::voters::{PASSWORD, Voters};
use rustix::process::Signal;
use tokio::time::Instant;

/// How long a call is tried: longer than an election takes.
const DEADLINE: Duration = Duration::from_secs(3);

/// Clients of each key.
const CLIENTS: u64 = 3;

/// How many acknowledged calls each key gets in each phase.
const CALLS: usize = 60;

/// Far longer than voters take to form a store.
const FORMED_WITHIN: Duration = Duration::from_secs(20);

/// Far longer than any story takes.
const STORY_MAX: Duration = Duration::from_secs(50);

/// A key as its clients see it.
struct Register;

#[derive(Debug, Clone, Copy)]
enum Asked {
    Write(u64),
    Read,
    /// From what was read last to a new value.
    Swap(Option<u64>, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Written,
    Found(Option<u64>),
    Swapped(bool),
}

impl Model for Register {
    type State = Option<u64>;
    type Operation = Asked;
    type Answer = Answered;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, asked: &Asked, answered: Option<&Answered>) -> Option<Option<u64>> {
        let (next, answer) = match *asked {
            Asked::Write(value) => (Some(value), Answered::Written),
            Asked::Read => (*state, Answered::Found(*state)),
            Asked::Swap(from, to) if *state == from => (Some(to), Answered::Swapped(true)),
            Asked::Swap(..) => (*state, Answered::Swapped(false)),
        };
        answered.is_none_or(|answered| *answered == answer).then_some(next)
    }
}

/// A client that asks this voter first.
fn client(voters: &Voters, first: usize) -> EtcdStore {
    let mut endpoints = voters.endpoints();
    endpoints.rotate_left(first);
    let user = Some((PASSWORD.to_owned(), PASSWORD.to_owned()));
    EtcdStore::new(&Options { endpoints, user, ..Options::default() }).unwrap()
}

type History = Arc<Mutex<Vec<Call<Asked, Answered>>>>;

async fn ask(store: &EtcdStore, key: &str, asked: Asked) -> Result<Answered, StoreError> {
    let value = |pair: &pgbaton_store::KeyValue| String::from_utf8(pair.value.clone()).unwrap().parse::<u64>().unwrap();
    match asked {
        Asked::Write(new) => {
            store.txn(Txn::of(vec![Op::put(key, new.to_string())]), DEADLINE).await.map(|_| Answered::Written)
        }
        Asked::Read => {
            let result = store.txn(Txn::of(vec![Op::get(key)]), DEADLINE).await?;
            let [OpResponse::Got(found)] = &result.responses[..] else { panic!("{result:?}") };
            Ok(Answered::Found(found.as_ref().map(value)))
        }
        Asked::Swap(from, to) => {
            let is = match from {
                Some(from) => Compare::Value { key: key.to_owned(), value: from.to_string().into_bytes() },
                None => Compare::absent(key),
            };
            let result = store.txn(Txn::when(vec![is], vec![Op::put(key, to.to_string())]), DEADLINE).await?;
            Ok(Answered::Swapped(result.succeeded))
        }
    }
}

/// What all clients have in common.
struct Shared {
    /// From which they count.
    begin: Instant,
    /// No value is written twice.
    numbers: AtomicU64,
    stop: AtomicBool,
}

/// One client: writes, reads and swaps what it has read, until it is told to end.
async fn use_key(store: EtcdStore, key: String, shared: Arc<Shared>, history: History) {
    let (mut last, mut turn) = (None, 0_u32);
    while !shared.stop.load(Ordering::SeqCst) {
        let new = shared.numbers.fetch_add(1, Ordering::SeqCst);
        let asked = match turn % 4 {
            0 => Asked::Write(new),
            2 => Asked::Swap(last, new),
            _ => Asked::Read,
        };
        turn += 1;
        let moment = || u64::try_from(Instant::now().duration_since(shared.begin).as_nanos()).unwrap();
        let begun = moment();
        let answer = ask(&store, &key, asked).await;
        let ended = moment();
        let call = match answer {
            Ok(answer) => {
                if let Answered::Found(found) = answer {
                    last = found;
                }
                Call { operation: asked, answer: Some(answer), begun, ended }
            }
            Err(error) if error.is_indeterminate() => Call { operation: asked, answer: None, begun, ended: u64::MAX },
            // Certainly not done, says the store: then it must not show.
            Err(_) => continue,
        };
        history.lock().unwrap().push(call);
    }
}

/// The time to live of the leases here: the shortest that etcd's protocol gives.
const TTL: Duration = Duration::from_secs(2);

/// How often a lease is renewed before it is left alone.
const RENEWALS: u32 = 3;

/// Takes a lease, renews it, leaves it alone until it ends, again and again until it is told to end: until its time to live has passed since the
/// last renewal that was answered was *sent*, nobody is told that it is gone. How many ended when they had to.
async fn use_leases(store: EtcdStore, key: String, shared: Arc<Shared>) {
    let mut ended = 0;
    // One at the least, however short the story is.
    while ended == 0 || !shared.stop.load(Ordering::SeqCst) {
        assert!(Instant::now() < shared.begin + STORY_MAX, "{key}: the story does not end; leases that did: {ended}");
        let mut until = Instant::now() + TTL;
        let Ok(lease) = store.lease_grant(TTL, DEADLINE).await else { continue };
        assert_eq!(lease.ttl, TTL);
        let put = Txn::when(vec![Compare::absent(&key)], vec![Op::put_leased(&key, "x", lease.id)]);
        let created = match store.txn(put, DEADLINE).await {
            Ok(result) if result.succeeded => result.revision,
            // It may have been done: then it ends by itself, and the next one waits for that.
            _ => continue,
        };
        let renewal = Renewal { lease: lease.id, leader_key: key.clone(), epoch_create_revision: created };
        for _ in 0..RENEWALS {
            let sent = Instant::now();
            match store.renew(renewal.clone(), DEADLINE).await {
                Ok(_) => until = sent + TTL,
                Err(error) if Instant::now() < until => assert!(error.refusal().is_none(), "{key}: {error}"),
                Err(_) => {}
            }
            look(&store, &key, until).await;
        }
        while look(&store, &key, until).await {
            // waits: a pause between two looks
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended += 1;
    }
}

/// Whether the key is there; it has to be until then.
async fn look(store: &EtcdStore, key: &str, until: Instant) -> bool {
    let Ok(found) = store.txn(Txn::of(vec![Op::get(key)]), DEADLINE).await else { return true };
    let there = matches!(&found.responses[..], [OpResponse::Got(Some(_))]);
    let now = Instant::now();
    assert!(there || now >= until, "{key}: its lease ended {:?} early", until - now);
    there
}

/// Runs clients while something happens, and checks what they saw.
async fn story(voters: &mut Voters, what: &str, mut happens: impl FnMut(&mut Voters, usize)) {
    let shared = Shared { begin: Instant::now(), numbers: AtomicU64::new(1), stop: AtomicBool::new(false) };
    let shared = Arc::new(shared);
    let mut keys: Vec<(String, History)> = Vec::new();
    let mut clients = Vec::new();
    for key in 0..2 {
        let (name, history) = (format!("/{what}/{key}"), History::default());
        for number in 0..CLIENTS {
            let store = client(voters, usize::try_from(number).unwrap() % 3);
            clients.push(tokio::spawn(use_key(store, name.clone(), Arc::clone(&shared), Arc::clone(&history))));
        }
        keys.push((name, history));
    }
    let leases: Vec<_> = (0..3)
        .map(|number| {
            let key = format!("/{what}/leased/{number}");
            tokio::spawn(use_leases(client(voters, number), key, Arc::clone(&shared)))
        })
        .collect();
    for step in 0..6 {
        let before: Vec<usize> = keys.iter().map(|(_, history)| answered(history)).collect();
        happens(voters, step);
        let end = Instant::now() + Duration::from_secs(30);
        while keys.iter().zip(&before).any(|((_, history), before)| answered(history) < before + CALLS / 6) {
            assert!(Instant::now() < end, "{what}, step {step}: no answers any more");
            // waits: a pause between two looks at what the clients have done
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    shared.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    for lease in leases {
        lease.await.unwrap();
    }
    for (name, history) in keys {
        assert!(answered(&history) >= CALLS, "{name}: {} calls", answered(&history));
        let history = history.lock().unwrap();
        assert!(is_linearizable(&Register, &history), "{name}: {history:#?}");
    }
}

/// How many calls were answered.
fn answered(history: &History) -> usize {
    history.lock().unwrap().iter().filter(|call| call.answer.is_some()).count()
}

/// Three voters that have formed a store: each on a host of its own, where this may make hosts.
async fn voters() -> Voters {
    let (program, directory) = (Path::new(env!("CARGO_BIN_EXE_pgbaton")), std::env::temp_dir());
    let voters =
        if is_root() { Voters::on_hosts(program, &directory, 3) } else { Voters::on_loopback(program, &directory, 3) };
    let voters = voters.unwrap();
    client(&voters, 0).snapshot("/", FORMED_WITHIN).await.unwrap();
    voters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_tell_one_story_while_voters_are_killed() {
    let mut voters = voters().await;
    story(&mut voters, "killed", |voters, step| {
        let victim = step / 2;
        if step % 2 == 0 { voters.kill(victim) } else { voters.start_member(victim).unwrap() }
    })
    .await;
    story(&mut voters, "restarted at once", |voters, step| {
        voters.kill(step % 3);
        voters.start_member(step % 3).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_tell_one_story_while_voters_are_frozen() {
    story(&mut voters().await, "frozen", |voters, step| {
        voters.signal(step / 2, if step % 2 == 0 { Signal::STOP } else { Signal::CONT }).unwrap();
    })
    .await;
}

/// Without root's rights the voters have no hosts of their own: then nothing is parted or slow here, and the clients are all that happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_tell_one_story_while_voters_are_parted_and_their_disks_slow() {
    let mut voters = voters().await;
    // Their clients reach the one that is apart, and must not hear old news from it.
    story(&mut voters, "apart", |voters, step| voters.set_apart(step / 2, step % 2 == 0).unwrap()).await;
    story(&mut voters, "slow", |voters, step| {
        let delay = if step % 2 == 0 { Duration::from_millis(150) } else { Duration::ZERO };
        voters.set_delay(step / 2, delay).unwrap();
    })
    .await;
    story(&mut voters, "all slow", |voters, step| {
        let delay = if step == 5 { Duration::ZERO } else { Duration::from_millis(20 * u64::try_from(step).unwrap()) };
        (0..3).for_each(|voter| voters.set_delay(voter, delay).unwrap());
    })
    .await;
}
