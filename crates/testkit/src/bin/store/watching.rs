//! From the begin of a put to the moment at which a watcher hears of it.

use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::watch_client::WatchClient;
use pgbaton_etcd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::Outcome;
use crate::client::Client;
use crate::report::percentile;
use crate::voters::Voters;

/// The pause between two puts: a watcher waits most of the time.
const PAUSE: Duration = Duration::from_millis(5);

const KEY: &str = "/bench/watched";

/// How long each notification took, in milliseconds.
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// The time, in milliseconds, that this percentage of them took at most.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.0, percent)
    }
}

/// Puts through the leader, watches at the voter after it.
pub(crate) async fn run(voters: &Voters, time: Duration) -> Outcome<Times> {
    let leader = voters.leader().await?;
    let writer = Client::new(&voters.endpoint(leader))?;
    let watcher = Client::new(&voters.endpoint((leader + 1) % voters.count()))?;
    let create = WatchCreateRequest { key: KEY.as_bytes().to_vec(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(create).await?;
    let mut watch = WatchClient::new(watcher.channel).watch(ReceiverStream::new(outgoing)).await?.into_inner();
    next(&mut watch).await?;
    let (mut times, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        let begin = Instant::now();
        let (put, heard) = tokio::join!(writer.put(KEY, Vec::new()), async {
            let heard = next(&mut watch).await;
            heard.map(|response| (response, Instant::now().duration_since(begin)))
        });
        put?;
        let (response, heard) = heard?;
        if response.events.len() != 1 {
            return Err(format!("{} events where one was expected", response.events.len()).into());
        }
        times.push(heard.as_secs_f64() * 1000.0);
        // waits: the rate of the load
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Times(times))
}

async fn next(watch: &mut Streaming<WatchResponse>) -> Outcome<WatchResponse> {
    Ok(watch.message().await?.ok_or("the watch ended")?)
}
