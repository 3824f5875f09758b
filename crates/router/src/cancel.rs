//! Cancel requests: a key says nothing of its server, so each server of the port is told. Those that do not know it do nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::connect;

/// How long a server may take to close the connection, which it does when the request is done.
const DONE_WITHIN: Duration = Duration::from_secs(5);

/// Passes the request on, and waits until each server has taken it: clients wait for that.
pub(crate) async fn pass_on(packet: &[u8], servers: Vec<String>, connect_within: Duration) {
    let tasks: Vec<_> = servers
        .into_iter()
        .map(|server| tokio::task::spawn_local(tell(packet.to_vec(), server, connect_within)))
        .collect();
    for task in tasks {
        // The only error is a panic, which was reported.
        let _ = task.await;
    }
}

async fn tell(packet: Vec<u8>, server: String, connect_within: Duration) {
    let told = async {
        let mut stream = connect::to(&server, connect_within).await?;
        stream.write_all(&packet).await?;
        // It answers nothing: the end of the connection is the answer.
        stream.read(&mut [0; 1]).await
    };
    match timeout(DONE_WITHIN, told).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%server, %error, "a cancel request was not passed on"),
        Err(_) => tracing::debug!(%server, "a cancel request was not answered in time"),
    }
}
