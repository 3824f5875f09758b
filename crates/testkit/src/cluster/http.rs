//! Just enough HTTP for a member's REST API: one request, one answer, deadlines.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{ClusterError, Outcome};

/// Longest wait for a connection: members are on this machine.
const CONNECT: Duration = Duration::from_secs(1);

/// A member's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Sends a request. `limit` is for each read, and so for the answer to begin.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str, limit: Duration) -> Outcome<Answer> {
    exchange(address, method, path, body, limit).map_err(|source| ClusterError::Rest {
        address,
        request: format!("{method} {path}"),
        source,
    })
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &str, limit: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(CONNECT))?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n");
    let kind = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{kind}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok(Answer { status, body: body.to_owned() })
}
