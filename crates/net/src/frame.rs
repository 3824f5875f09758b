use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::hmac::Key;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::auth::{self, KEY_BYTES, PeerKey, is_loopback};
use crate::socket;

/// The first bytes of each direction: what speaks here, and the version of it. An HTTP/2 preface begins otherwise, so that
/// one port can tell them apart.
const PREAMBLE: [u8; 8] = *b"PGBATON\x01";

/// The longest frame, in bytes: a snapshot of the whole store must fit in one.
pub const FRAME_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// Bytes that are received at once where there is room: some requests, so that most come with one call to the system.
const RECEIVE_BYTES: usize = 4 * 1024;

/// A buffer above this many bytes is given back after its frame: a snapshot is seldom, and connections are kept.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a frame's tag: half an HMAC-SHA256 (RFC 2104, section 5).
const TAG_BYTES: usize = 16;

/// How long the handshake may take: three messages on a local network.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

const YES: u8 = 1;
const NO: u8 = 0;

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The operating system said no, or the other end went away.
    #[error("connection to {peer} failed")]
    Io {
        /// The other end.
        peer: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The other end did not answer in time.
    #[error("{peer} did not answer within {} ms", .after.as_millis())]
    Timeout {
        /// The other end.
        peer: String,
        /// How long was waited.
        after: Duration,
    },
    /// Something else speaks there, or another version.
    #[error("{peer} does not speak this version of the store's protocol")]
    NotAPeer {
        /// The other end.
        peer: String,
    },
    /// The passwords differ.
    #[error("the password in raft.password differs from that of {peer}")]
    PasswordDiffers {
        /// The other end.
        peer: String,
    },
    /// No password on a connection that leaves the host.
    #[error("{peer} is not on this host, and no password is set in raft.password")]
    PasswordNeeded {
        /// The other end.
        peer: String,
    },
    /// A frame was changed, repeated, left out or injected on its way.
    #[error("a frame from {peer} does not carry the right tag: it was changed or injected on its way")]
    Forged {
        /// The other end.
        peer: String,
    },
    /// A frame is longer than allowed.
    #[error("a frame of {bytes} bytes from or to {peer}, {FRAME_BYTES_MAX} at most")]
    TooLong {
        /// The other end.
        peer: String,
        /// Its length.
        bytes: usize,
    },
}

/// A connection between two stores after the handshake. Frames are authenticated and counted, so that nothing can be injected,
/// changed, repeated or left out; they are not encrypted.
///
/// ```text
///   client -> preamble, nonce c
///   server -> preamble, nonce s, HMAC(key, "server" c s)
///   client -> yes, HMAC(key, "client" c s)      or: no (the passwords differ)
///   server -> yes                               or: no
///   then each way: length, payload, HMAC(HMAC(key, direction c s), counter length payload)
/// ```
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: String,
    send_key: Key,
    receive_key: Key,
    sent: u64,
    received: u64,
    /// What has arrived and was not asked for yet.
    incoming: BytesMut,
}

impl Connection {
    /// Connects and proves to each other that both know the password.
    pub async fn connect(address: &str, key: &PeerKey, deadline: Duration) -> Result<Self, FrameError> {
        let limit = deadline.min(HANDSHAKE_MAX);
        let connecting = async {
            let stream = TcpStream::connect(address).await.map_err(io_error(address))?;
            Self::greet(stream, address, key).await
        };
        tokio::time::timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(FrameError::Timeout { peer: address.to_owned(), after: limit }))
    }

    /// The same from the side that accepted.
    pub async fn accept(stream: TcpStream, from: SocketAddr, key: &PeerKey) -> Result<Self, FrameError> {
        let peer = from.to_string();
        tokio::time::timeout(HANDSHAKE_MAX, Self::answer(stream, peer.clone(), key))
            .await
            .unwrap_or_else(|_| Err(FrameError::Timeout { peer, after: HANDSHAKE_MAX }))
    }

    async fn greet(mut stream: TcpStream, address: &str, key: &PeerKey) -> Result<Self, FrameError> {
        let peer = address.to_owned();
        check_reach(&stream, &peer, key)?;
        socket::tune(&stream).map_err(io_error(address))?;
        let client: [u8; KEY_BYTES] = rand::random();
        write(&mut stream, &peer, &[&PREAMBLE, &client]).await?;
        let preamble: [u8; 8] = read(&mut stream, &peer).await?;
        if preamble != PREAMBLE {
            return Err(FrameError::NotAPeer { peer });
        }
        let server: [u8; KEY_BYTES] = read(&mut stream, &peer).await?;
        let proof: [u8; KEY_BYTES] = read(&mut stream, &peer).await?;
        if proof != key.proof("server", &client, &server) {
            write(&mut stream, &peer, &[&[NO], &[0; KEY_BYTES]]).await?;
            return Err(FrameError::PasswordDiffers { peer });
        }
        write(&mut stream, &peer, &[&[YES], &key.proof("client", &client, &server)]).await?;
        let [verdict] = read(&mut stream, &peer).await?;
        if verdict != YES {
            return Err(FrameError::PasswordDiffers { peer });
        }
        let send_key = key.proof("to server", &client, &server);
        let receive_key = key.proof("to client", &client, &server);
        Ok(Self::begin(stream, peer, &send_key, &receive_key))
    }

    async fn answer(mut stream: TcpStream, peer: String, key: &PeerKey) -> Result<Self, FrameError> {
        check_reach(&stream, &peer, key)?;
        socket::tune(&stream).map_err(io_error(&peer))?;
        let preamble: [u8; 8] = read(&mut stream, &peer).await?;
        if preamble != PREAMBLE {
            return Err(FrameError::NotAPeer { peer });
        }
        let client: [u8; KEY_BYTES] = read(&mut stream, &peer).await?;
        let server: [u8; KEY_BYTES] = rand::random();
        let proof = key.proof("server", &client, &server);
        write(&mut stream, &peer, &[&PREAMBLE, &server, &proof]).await?;
        let [verdict] = read(&mut stream, &peer).await?;
        let proof: [u8; KEY_BYTES] = read(&mut stream, &peer).await?;
        if verdict != YES || proof != key.proof("client", &client, &server) {
            write(&mut stream, &peer, &[&[NO]]).await?;
            return Err(FrameError::PasswordDiffers { peer });
        }
        write(&mut stream, &peer, &[&[YES]]).await?;
        let send_key = key.proof("to client", &client, &server);
        let receive_key = key.proof("to server", &client, &server);
        Ok(Self::begin(stream, peer, &send_key, &receive_key))
    }

    fn begin(stream: TcpStream, peer: String, send_key: &[u8], receive_key: &[u8]) -> Self {
        let (send_key, receive_key) = (auth::key(send_key), auth::key(receive_key));
        Self { stream, peer, send_key, receive_key, sent: 0, received: 0, incoming: BytesMut::new() }
    }

    /// The other end.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether nothing has arrived unasked, such as the end of the connection because the other end restarted. To be asked
    /// before a connection that was kept is used again.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let nothing =
            matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        nothing && self.incoming.is_empty()
    }

    /// Sends one frame.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= FRAME_BYTES_MAX)
            .ok_or_else(|| FrameError::TooLong { peer: self.peer.clone(), bytes: payload.len() })?
            .to_be_bytes();
        let tag = auth::hmac(&self.send_key, &[&self.sent.to_be_bytes(), &length, payload]);
        self.sent += 1;
        write(&mut self.stream, &self.peer, &[&length, payload, &tag.as_ref()[..TAG_BYTES]]).await
    }

    /// Receives one frame. May be cancelled: what has arrived is kept for the next call.
    pub async fn receive(&mut self) -> Result<Vec<u8>, FrameError> {
        loop {
            if let Some(payload) = self.arrived()? {
                return Ok(payload);
            }
            if self.stream.read_buf(&mut self.incoming).await.map_err(io_error(&self.peer))? == 0 {
                return Err(io_error(&self.peer)(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next frame, if the whole of it has arrived; otherwise there is room for the rest of it.
    fn arrived(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(length) = self.incoming.first_chunk::<LENGTH_BYTES>().copied() else {
            self.incoming.reserve(RECEIVE_BYTES);
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { peer: self.peer.clone(), bytes });
        }
        let whole = LENGTH_BYTES + bytes + TAG_BYTES;
        if self.incoming.len() < whole {
            self.incoming.reserve(whole - self.incoming.len());
            return Ok(None);
        }
        let frame = self.incoming.split_to(whole);
        let (payload, tag) = frame[LENGTH_BYTES..].split_at(bytes);
        if !auth::verify(&self.receive_key, &[&self.received.to_be_bytes(), &length, payload], tag) {
            return Err(FrameError::Forged { peer: self.peer.clone() });
        }
        self.received += 1;
        if whole > KEPT_BYTES_MAX && self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        Ok(Some(payload.to_vec()))
    }
}

fn check_reach(stream: &TcpStream, peer: &str, key: &PeerKey) -> Result<(), FrameError> {
    if key.is_some() {
        return Ok(());
    }
    let ends = [stream.local_addr(), stream.peer_addr()];
    for end in ends {
        if !is_loopback(&end.map_err(io_error(peer))?) {
            return Err(FrameError::PasswordNeeded { peer: peer.to_owned() });
        }
    }
    Ok(())
}

fn io_error(peer: &str) -> impl FnOnce(io::Error) -> FrameError {
    let peer = peer.to_owned();
    move |source| FrameError::Io { peer, source }
}

async fn read<const N: usize>(stream: &mut TcpStream, peer: &str) -> Result<[u8; N], FrameError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(io_error(peer))?;
    Ok(bytes)
}

async fn write(stream: &mut TcpStream, peer: &str, parts: &[&[u8]]) -> Result<(), FrameError> {
    stream.write_all(&parts.concat()).await.map_err(io_error(peer))
}
