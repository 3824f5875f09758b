//! Memory and processor time of the voters.

use std::fs;
use std::time::Duration;

use crate::Outcome;
use crate::client::Client;
use crate::voters::Voters;

/// Clock ticks of a second in `/proc/PID/stat`: 100 on every Linux (`USER_HZ`, time(7)).
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

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

/// User and system time of all processes so far, in ticks.
pub(crate) fn ticks(processes: &[i32]) -> Outcome<f64> {
    let mut sum = 0.0;
    for pid in processes {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').ok_or("a stat line without a name")?;
        // utime and stime are fields 14 and 15; the name in parentheses is field 2 (proc(5)).
        for field in rest.split_whitespace().skip(11).take(2) {
            sum += field.parse::<f64>()?;
        }
    }
    Ok(sum)
}
