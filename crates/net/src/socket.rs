use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// Silence on a connection after which the kernel asks whether the other end is there. A lost host sends no RST, and
/// the shortest lease is 5 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(1);

/// How often it asks without an answer before the connection is dead.
const KEEPALIVE_PROBES: u32 = 3;

/// How long sent data may stay unacknowledged before the connection is dead (tcp(7), `TCP_USER_TIMEOUT`): with the
/// default a connection to a lost host would be retried for a quarter of an hour.
const USER_TIMEOUT_MS: u32 = 3_000;

/// Sets what every connection of ours has: no delay for small writes, and a short time to notice a lost host.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE_AFTER)?;
    rustix::net::sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}
