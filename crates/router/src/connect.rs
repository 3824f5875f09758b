//! Connections to servers.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Silence after which the kernel asks whether the other end is there: a lost host sends nothing, and a session on it would stay for ever.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How many of them may stay unanswered.
const KEEPALIVE_PROBES: u32 = 3;

/// Connects, and sends what the server is to see first.
pub(crate) async fn to(address: &str, within: Duration) -> io::Result<TcpStream> {
    let stream = timeout(within, TcpStream::connect(address)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    tune(&stream)?;
    Ok(stream)
}

/// No delay for small packets, and a word when the other host is gone.
pub(crate) fn tune(stream: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Has the connection reset instead of ended when it is closed: whoever waits on it hears at once, and no data is left on its way.
pub(crate) fn reset_at_close(stream: &impl AsFd) {
    if let Err(error) = sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is closed without a reset");
    }
}
