//! The PROXY protocol (haproxy.org, "The PROXY protocol", versions 1 and 2): who the client is, told by whoever stands before the router.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, the version with the command, the family, and the length.
const HEAD_BYTES: usize = 16;
/// The longest header of version 1, its line end included.
const LINE_BYTES_MAX: usize = 107;
/// The longest rest of version 2 that is read: addresses and what some senders add.
const REST_BYTES_MAX: usize = 4096;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// It is something else.
    #[error("the connection does not begin with a header of the PROXY protocol: {0}")]
    Foreign(&'static str),
    /// The connection failed.
    #[error("the header of the PROXY protocol could not be read")]
    Io(#[from] io::Error),
}

/// Reads a header. Gives the client, if the header names one, and what came after it already.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyError> {
    let mut bytes = Vec::with_capacity(LINE_BYTES_MAX);
    fill(stream, &mut bytes, SIGNATURE.len()).await?;
    if bytes.starts_with(SIGNATURE) {
        fill(stream, &mut bytes, HEAD_BYTES).await?;
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if length > REST_BYTES_MAX {
            return Err(ProxyError::Foreign("its length cannot be"));
        }
        fill(stream, &mut bytes, HEAD_BYTES + length).await?;
        let rest = bytes.split_off(HEAD_BYTES + length);
        return Ok((version_2(&bytes)?, rest));
    }
    loop {
        if let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
            let rest = bytes.split_off(end + 2);
            return Ok((version_1(&bytes[..end])?, rest));
        }
        if bytes.len() >= LINE_BYTES_MAX || !bytes.starts_with(b"PROXY ") {
            return Err(ProxyError::Foreign("neither version 1 nor version 2"));
        }
        let wanted = bytes.len() + 1;
        fill(stream, &mut bytes, wanted).await?;
    }
}

/// A header of version 2 for a client that came to `to`.
pub(crate) fn write(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    // Version 2, a proxied connection.
    header.push(0x21);
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x11, 0, 12]);
            header.extend(from.octets().into_iter().chain(to.octets()));
        }
        (from, to) => {
            let six = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            header.extend([0x21, 0, 36]);
            header.extend(six(from).octets().into_iter().chain(six(to).octets()));
        }
    }
    header.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()));
    header
}

fn version_1(line: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Foreign("a line that is no text"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
    let port = words.nth(1).and_then(|word| word.parse().ok());
    match (family, address, port) {
        ("TCP4" | "TCP6", Some(address), Some(port)) => Ok(Some(SocketAddr::new(address, port))),
        _ => Err(ProxyError::Foreign("a line of version 1 without addresses")),
    }
}

fn version_2(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    if header[12] >> 4 != 2 {
        return Err(ProxyError::Foreign("neither version 1 nor version 2"));
    }
    let rest = &header[HEAD_BYTES..];
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match (header[12] & 0xF, header[13]) {
        // LOCAL: a check of the sender's own.
        (0, _) => Ok(None),
        (1, 0x11) if rest.len() >= 12 => {
            let address = Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]);
            Ok(Some(SocketAddr::new(address.into(), port(8))))
        }
        (1, 0x21) if rest.len() >= 36 => {
            let octets: [u8; 16] = std::array::from_fn(|at| rest[at]);
            Ok(Some(SocketAddr::new(Ipv6Addr::from(octets).into(), port(32))))
        }
        (1, _) => Ok(None),
        _ => Err(ProxyError::Foreign("an unknown command")),
    }
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>, wanted: usize) -> Result<(), ProxyError> {
    while bytes.len() < wanted {
        bytes.reserve(wanted - bytes.len());
        if stream.read_buf(bytes).await? == 0 {
            return Err(ProxyError::Foreign("it ended"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(bytes: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyError> {
        let mut left = bytes;
        let (client, mut rest) = read(&mut left).await?;
        rest.extend(left);
        Ok((client, rest))
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        for (from, to) in [("10.0.0.1:5000", "10.0.0.2:6000"), ("[fd00::1]:5000", "[fd00::2]:6000")] {
            let from: SocketAddr = from.parse().unwrap();
            let mut bytes = write(from, to.parse().unwrap());
            bytes.extend(b"rest");
            assert_eq!(of(&bytes).await.unwrap(), (Some(from), b"rest".to_vec()));
        }
    }

    #[tokio::test]
    async fn version_1_is_read() {
        let line = b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 6000\r\nrest";
        assert_eq!(of(line).await.unwrap(), (Some("10.0.0.1:5000".parse().unwrap()), b"rest".to_vec()));
        assert_eq!(of(b"PROXY UNKNOWN\r\n").await.unwrap(), (None, Vec::new()));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = [b"PROXY ".to_vec(), vec![b'x'; 200]].concat();
        let bad: [&[u8]; 4] = [b"\0\0\0\x08\x04\xd2\x16\x2f....", b"PROXY TCP4 nobody\r\n", &long, b"PROXY"];
        for bytes in bad {
            assert!(of(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
