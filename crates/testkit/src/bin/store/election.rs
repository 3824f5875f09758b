//! How long nobody can write when the leader of the store is killed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Outcome;
use crate::client::Client;
use crate::voters::Voters;

/// A put is begun this often, without waiting for those before it: one that went to the dead leader may never be answered.
const EVERY: Duration = Duration::from_millis(10);

/// After this long there will be no leader any more.
const LIMIT: Duration = Duration::from_secs(30);

/// Kills the leader; from then until one of the others answers a put, in milliseconds. Then the killed one comes back.
pub(crate) async fn run(voters: &mut Voters) -> Outcome<f64> {
    let leader = voters.leader().await?;
    let mut others = Vec::new();
    for number in (0..voters.count()).filter(|number| *number != leader) {
        let client = Client::new(&voters.endpoint(number))?;
        client.put("/bench/election", Vec::new()).await?;
        others.push(client);
    }
    voters.kill(leader);
    let begin = Instant::now();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut ticks = tokio::time::interval(EVERY);
    let time = loop {
        tokio::select! {
            _ = ticks.tick() => {
                if Instant::now().duration_since(begin) > LIMIT {
                    return Err(format!("no leader within {} s", LIMIT.as_secs()).into());
                }
                for client in &others {
                    let (client, answers) = (client.clone(), answers.clone());
                    tokio::spawn(async move {
                        // An answer after the first one is of no interest to anybody.
                        if client.put("/bench/election", Vec::new()).await.is_ok() {
                            let _ = answers.send(Instant::now().duration_since(begin));
                        }
                    });
                }
            }
            Some(first) = answered.recv() => break first,
        }
    };
    voters.run(leader)?;
    voters.ready().await?;
    Ok(time.as_secs_f64() * 1000.0)
}
