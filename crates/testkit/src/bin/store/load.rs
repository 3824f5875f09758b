//! Clients that each make one call after the other.

use std::time::Duration;

use tokio::time::Instant;

use crate::Outcome;
use crate::client::Client;
use crate::report::percentile;
use crate::voters::Voters;

/// The length of a value: what a member of a cluster writes about itself.
const VALUE_BYTES: usize = 256;

/// How many keys each client goes through.
const KEYS: usize = 16;

/// What came of a load.
pub(crate) struct Load {
    /// Calls each second, of all clients together.
    pub(crate) per_second: f64,
    /// How long each call took, in milliseconds.
    times: Vec<f64>,
}

impl Load {
    /// The time, in milliseconds, that this percentage of the calls took at most.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.times, percent)
    }
}

/// Runs so many clients, spread over the voters, for `time`.
pub(crate) async fn run(voters: &Voters, clients: usize, reads: bool, time: Duration) -> Outcome<Load> {
    let mut running = Vec::new();
    let begin = Instant::now();
    for number in 0..clients {
        let client = Client::new(&voters.endpoint(number % voters.count()))?;
        running.push(tokio::spawn(calls(client, number, reads, begin + time)));
    }
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await??);
    }
    Ok(Load { per_second: times.len() as f64 / Instant::now().duration_since(begin).as_secs_f64(), times })
}

async fn calls(client: Client, number: usize, reads: bool, end: Instant) -> Outcome<Vec<f64>> {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("/bench/{number}/{key}")).collect();
    for key in &keys {
        client.put(key, vec![b'x'; VALUE_BYTES]).await?;
    }
    let mut times = Vec::new();
    for key in keys.iter().cycle() {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        if reads {
            client.get(key).await?;
        } else {
            client.put(key, vec![b'x'; VALUE_BYTES]).await?;
        }
        times.push(Instant::now().duration_since(begin).as_secs_f64() * 1000.0);
    }
    Ok(times)
}
