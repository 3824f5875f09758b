//! Memory and processor time of the voters.

use std::fs;
use std::time::Duration;

use crate::Outcome;
use crate::client::Client;
use crate::voters::Voters;

/// How long a cluster uses the store before its memory is looked at.
const USE_TIME: Duration = Duration::from_secs(10);

/// A cluster's keys below its scope, with the length of their values in bytes: three members, a history, a configuration.
const KEYS: [(&str, usize); 9] = [
    ("initialize", 19),
    ("config", 600),
    ("leader", 2),
    ("status", 120),
    ("history", 400),
    ("sync", 80),
    ("members/h1", 250),
    ("members/h2", 250),
    ("members/h3", 250),
];

/// The memory of all voters, in MiB, with one cluster's keys in them, each of which is written ten times a second for a while.
pub(crate) async fn memory(voters: &Voters) -> Outcome<f64> {
    let client = Client::new(&voters.endpoint(0))?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let end = tokio::time::Instant::now() + USE_TIME;
    while tokio::time::Instant::now() < end {
        ticks.tick().await;
        for (key, bytes) in KEYS {
            client.put(&format!("/service/bench/{key}"), vec![b'x'; bytes]).await?;
        }
    }
    let mut sum = 0.0;
    for pid in voters.processes() {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no line Pss")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        sum += kibibytes / 1024.0;
    }
    Ok(sum)
}
