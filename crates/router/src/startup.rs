//! A client's first packet (PostgreSQL documentation, "Message Formats": `CancelRequest`, `SSLRequest`, `GSSENCRequest`, `StartupMessage`).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest first packet: PostgreSQL's own limit (`MAX_STARTUP_PACKET_LENGTH`).
const PACKET_BYTES_MAX: usize = 10_000;
/// The length and the code.
const HEAD_BYTES: usize = 8;
/// Protocol 3.2 has keys of up to 256 bytes: length, code and process id come before the key.
const CANCEL_BYTES_MAX: usize = 12 + 256;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;
/// The first byte of TLS without a request before it (from PostgreSQL 17 on): a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum First {
    /// It wants another session's statement to end.
    Cancel(Vec<u8>),
    /// It begins a session in plain text: the server's answer can be read.
    Plain(Vec<u8>),
    /// It asks for encryption. If the server declines, another first packet follows.
    Request(Vec<u8>),
    /// It begins with TLS at once: nothing can be read after it.
    Tls(Vec<u8>),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    /// The connection ended: a check whether the port answers.
    #[error("the client went before it had said anything")]
    Gone,
    /// It is not PostgreSQL's protocol.
    #[error("the client does not speak PostgreSQL's protocol: {0}")]
    Foreign(&'static str),
    /// The connection failed.
    #[error("the client's first packet could not be read")]
    Io(#[from] io::Error),
}

/// Reads the first packet. `already` is what was read before it was known where it begins.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), already: Vec<u8>) -> Result<First, StartupError> {
    let mut packet = already;
    fill(stream, &mut packet, 1).await?;
    if packet[0] == TLS_HANDSHAKE {
        return Ok(First::Tls(packet));
    }
    fill(stream, &mut packet, HEAD_BYTES).await?;
    let number = |at: usize| packet[at..at + 4].iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    let (length, code) = (number(0) as usize, number(4));
    if !(HEAD_BYTES..=PACKET_BYTES_MAX).contains(&length) {
        return Err(StartupError::Foreign("the length of its first packet cannot be"));
    }
    fill(stream, &mut packet, length).await?;
    match code {
        CODE_CANCEL if length > CANCEL_BYTES_MAX => Err(StartupError::Foreign("its cancel request is too long")),
        CODE_CANCEL => Ok(First::Cancel(packet)),
        CODE_SSL | CODE_GSS => Ok(First::Request(packet)),
        _ => Ok(First::Plain(packet)),
    }
}

/// Reads until there are `wanted` bytes; more may come with them.
async fn fill(stream: &mut (impl AsyncRead + Unpin), packet: &mut Vec<u8>, wanted: usize) -> Result<(), StartupError> {
    while packet.len() < wanted {
        packet.reserve(wanted - packet.len());
        if stream.read_buf(packet).await? == 0 {
            let said = !packet.is_empty();
            return Err(if said { StartupError::Foreign("it ended in the middle") } else { StartupError::Gone });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD_BYTES + rest.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    async fn of(bytes: &[u8]) -> Result<First, StartupError> {
        read(&mut &*bytes, Vec::new()).await
    }

    #[tokio::test]
    async fn first_packets_are_told_apart() {
        let start = packet(196_608, b"user\0me\0\0");
        assert_eq!(of(&start).await.unwrap(), First::Plain(start.clone()));
        let cancel = packet(CODE_CANCEL, &[7; 8]);
        assert_eq!(of(&cancel).await.unwrap(), First::Cancel(cancel.clone()));
        for code in [CODE_SSL, CODE_GSS] {
            let request = packet(code, b"");
            assert_eq!(of(&request).await.unwrap(), First::Request(request.clone()));
        }
        assert_eq!(of(&[TLS_HANDSHAKE, 3, 1]).await.unwrap(), First::Tls(vec![TLS_HANDSHAKE, 3, 1]));
    }

    #[tokio::test]
    async fn what_is_no_first_packet_is_refused() {
        assert!(matches!(of(b"").await, Err(StartupError::Gone)));
        for foreign in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x09\0\x03", &packet(CODE_CANCEL, &[0; 300])] {
            assert!(matches!(of(foreign).await, Err(StartupError::Foreign(_))), "{foreign:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_already_counts() {
        let start = packet(196_608, b"user\0me\0\0");
        let first = read(&mut &start[5..], start[..5].to_vec()).await.unwrap();
        assert_eq!(first, First::Plain(start));
    }
}
