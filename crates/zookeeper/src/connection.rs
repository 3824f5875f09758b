use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::error::{Code, ZooKeeperError};
use crate::jute::{Reader, Writer};

/// The longest answer that is read, in bytes: what a node may hold (`jute.maxbuffer`, a megabyte), and as much again.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// The number of an answer that is none: something that was watched has changed.
const NOTIFICATION: i32 = -1;
/// The number of every ping.
pub(crate) const PING_NUMBER: i32 = -2;
/// The number of every log-in.
pub(crate) const AUTH_NUMBER: i32 = -4;

/// What is asked for (`ZooDefs.OpCode`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Create = 1,
    GetData = 4,
    SetData = 5,
    Ping = 11,
    Auth = 100,
    CloseSession = -11,
}

/// A session as a server knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its number; 0: none yet.
    pub(crate) id: i64,
    /// What proves that it is ours.
    pub(crate) password: Vec<u8>,
    /// After this long without a word of the client it is over, in milliseconds.
    pub(crate) timeout_ms: i32,
    /// The newest change that was seen: a server that does not know it refuses the connection.
    pub(crate) newest_change: i64,
}

/// A connection to one server, with the session that goes over it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) server: String,
    next_number: i32,
}

impl Connection {
    /// Connects and begins the session, or goes on with it.
    ///
    /// # Errors
    /// [`ZooKeeperError::Expired`] when there is no such session any more.
    pub(crate) async fn open(server: &str, session: &mut Session) -> Result<Self, ZooKeeperError> {
        let connect = |source| ZooKeeperError::Connect { server: server.to_owned(), source };
        let stream = TcpStream::connect(server).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let mut connection = Self { stream, server: server.to_owned(), next_number: 1 };
        let password = if session.password.is_empty() { vec![0; 16] } else { session.password.clone() };
        let request = Writer::default()
            .int(0)
            .long(session.newest_change)
            .int(session.timeout_ms)
            .long(session.id)
            .bytes(&password)
            .boolean(false);
        connection.stream.write_all(&request.frame()).await.map_err(connect)?;
        let answer = connection.frame().await.map_err(connect)?;
        let mut reader = Reader::new(&answer);
        let read = (reader.int(), reader.int(), reader.long(), reader.bytes());
        let (Some(_), Some(timeout_ms), Some(id), Some(password)) = read else {
            return Err(connection.protocol("the answer to the first message is too short"));
        };
        if timeout_ms <= 0 || session.id != 0 && session.id != id {
            return Err(ZooKeeperError::Expired);
        }
        *session = Session { id, password: password.to_owned(), timeout_ms, newest_change: session.newest_change };
        Ok(connection)
    }

    /// The number of the next request.
    pub(crate) fn number(&mut self) -> i32 {
        let number = self.next_number;
        self.next_number = number.checked_add(1).unwrap_or(1);
        number
    }

    /// Sends a request and reads its answer; the server's no comes as a code.
    pub(crate) async fn ask(
        &mut self,
        number: i32,
        operation: Operation,
        write: impl FnOnce(Writer) -> Writer,
        session: &mut Session,
    ) -> Result<Result<Vec<u8>, Code>, ZooKeeperError> {
        let request = write(Writer::default().int(number).int(operation as i32)).frame();
        self.stream.write_all(&request).await.map_err(|source| self.broken(source))?;
        loop {
            let mut answer = self.frame().await.map_err(|source| self.broken(source))?;
            let mut reader = Reader::new(&answer);
            let (Some(answered), Some(change), Some(code)) = (reader.int(), reader.long(), reader.int()) else {
                return Err(self.protocol("an answer is too short"));
            };
            if answered == NOTIFICATION {
                continue;
            }
            if answered != number {
                return Err(self.protocol("an answer that nobody asked for"));
            }
            session.newest_change = session.newest_change.max(change);
            return Ok(match code {
                0 => Ok(answer.split_off(HEADER_BYTES)),
                code => Err(Code::of(code)),
            });
        }
    }

    async fn frame(&mut self) -> io::Result<Vec<u8>> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|length| *length <= ANSWER_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no message of ZooKeeper's"))?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await?;
        Ok(frame)
    }

    pub(crate) fn protocol(&self, what: &'static str) -> ZooKeeperError {
        ZooKeeperError::Protocol { server: self.server.clone(), what }
    }

    fn broken(&self, source: io::Error) -> ZooKeeperError {
        ZooKeeperError::Broken { server: self.server.clone(), source }
    }
}

/// Number, change and code of an answer.
const HEADER_BYTES: usize = 16;
