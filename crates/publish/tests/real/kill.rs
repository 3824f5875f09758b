//! An outbox over the death of its process, at any instant.

use std::path::Path;
use std::time::Duration;

use pgbaton_publish::{ConsumerSettings, EventCommand, Settings};
use pgbaton_testkit::{Launch, Process, cluster, wait};
use serde::Deserialize;

use crate::{LIMIT, Running, courier, view};

/// Tells this test's program that it is the one to be killed, and where its outbox is.
const DIRECTORY: &str = "PGBATON_TEST_KILL_DIRECTORY";
/// The first reign that it is to see.
const FIRST: &str = "PGBATON_TEST_KILL_FIRST";
/// How often it is killed.
const KILLS: u64 = 25;
/// The longest life before that, from when it has something to lose.
const LIFE_MAX: Duration = Duration::from_millis(250);
/// Reigns in one life at most.
const REIGNS: u64 = 40;

/// What is killed: a publisher whose cluster changes hands all the time. As a test of its own it has nothing to do.
#[tokio::test]
async fn a_publisher_that_is_to_be_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let directory = Path::new(&directory);
    let line = format!("echo $PGBATON_SOURCE $PGBATON_SEQUENCE >> {}", directory.join("told").display());
    let consumer = ConsumerSettings::Command(EventCommand::Shell(line));
    let mut courier = courier(&directory.join("outbox"), consumer);
    // Where deliveries are slow, all events of all lives may wait; none may be dropped.
    courier.outbox.events_max = 10_000;
    let reign = |number: u64| view(number, number, if number.is_multiple_of(2) { "a" } else { "b" });
    let running = Running::start(Settings { targets: Vec::new(), couriers: vec![courier] }, reign(first));
    let mut number = first;
    while number < first + REIGNS {
        // Again and again: a view that is too old when its turn comes counts for nothing.
        running.show(reign(number));
        // waits: for the instants at which it may be killed
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Where the disk is slow, later reigns would hide this one.
        if queue(directory).is_ok_and(|queue| queue.seen.epoch >= number) {
            number += 1;
        }
    }
    running.task.await.unwrap();
}

/// It ends when this is dropped.
fn life(directory: &Path, first: u64) -> Process {
    let launch = Launch::new(std::env::current_exe().unwrap(), directory.join("log"))
        .args(["--exact", "kill::a_publisher_that_is_to_be_killed"])
        .env(DIRECTORY, directory.display().to_string())
        .env(FIRST, first.to_string());
    Process::start(&launch).unwrap()
}

/// The numbers that were told, in order.
fn told(directory: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(directory.join("told")).unwrap_or_default();
    let mut sources: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    sources.dedup();
    assert!(sources.len() < 2, "the numbers are of one source: {sources:?}");
    text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

/// The outbox's file, as far as it matters here.
#[derive(Deserialize)]
struct Queue {
    /// The number of the next event.
    next: u64,
    seen: Seen,
}

#[derive(Deserialize)]
struct Seen {
    /// The last reign.
    epoch: u64,
}

fn queue(directory: &Path) -> Result<Queue, String> {
    let text = std::fs::read_to_string(directory.join("outbox/events.queue"));
    let text = text.map_err(|error| format!("no queue yet: {error}"))?;
    Ok(serde_json::from_str(&text).unwrap())
}

#[test]
fn no_event_is_lost_or_comes_before_its_turn_whenever_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let seed = u64::from(std::process::id());
    let mut random = cluster::Random::new(seed, 0);
    for number in 0..KILLS {
        let before = queue(directory).map_or(1, |queue| queue.next);
        let child = life(directory, 1 + number * REIGNS);
        // A slow machine may need longer for that than the longest life. The others may die before their first write.
        if number % 2 == 0 {
            wait::until("something to lose", LIMIT, || {
                let next = queue(directory)?.next;
                if next > before { Ok(()) } else { Err(format!("the next event is still {next}")) }
            })
            .unwrap();
        }
        // waits: for the instant at which it is killed
        std::thread::sleep(random.time(LIFE_MAX));
        drop(child);
    }
    let child = life(directory, 1 + KILLS * REIGNS);
    wait::until("everything to be told", LIMIT, || {
        let (told, queue) = (told(directory), queue(directory)?);
        let next = queue.next;
        // The last reign of the last life is the last event.
        let all = queue.seen.epoch == (KILLS + 1) * REIGNS;
        if all && told.iter().max() == Some(&(next - 1)) { Ok(()) } else { Err(format!("{:?} of {next}", told.last())) }
    })
    .unwrap();
    drop(child);
    let mut highest = 0;
    for number in told(directory) {
        assert!(number <= highest + 1, "{number} after {highest}, seed {seed}");
        highest = highest.max(number);
    }
    assert!(highest > KILLS, "there was something to lose");
}
