use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connection::{AUTH_NUMBER, Connection, Operation, PING_NUMBER, Session};
use crate::error::{Code, ZooKeeperError};
use crate::jute::{Reader, Writer};

/// The bits of the right to read, and of all rights (`ZooDefs.Perms`).
const READ: i32 = 1;
const ALL: i32 = 31;
/// Attempts to connect for which there must be time before a session is over.
const CONNECTS_PER_SESSION: u32 = 4;
/// The scheme of a name with a password.
const DIGEST: &str = "digest";

/// Where `ZooKeeper` is and who asks.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of each server; they are tried one after the other.
    pub servers: Vec<String>,
    /// After this long without a word a session is over; the servers may grant another time, between 2 and 20 of their ticks.
    pub session: Duration,
    /// Name and password (scheme `digest`).
    pub digest: Option<(String, String)>,
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("servers", &self.servers)
            .field("session", &self.session)
            .field("digest", &self.digest.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// Who may do what with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acl {
    /// Everybody everything.
    Open,
    /// Who makes it everything, everybody else reads.
    Owned,
}

/// How long a node is there (`CreateMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent = 0,
    /// Until the session ends.
    Ephemeral = 1,
}

/// How often the data of a node were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(i32);

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it holds.
    pub data: Vec<u8>,
    /// The version of that.
    pub version: Version,
    /// It is ephemeral, and goes with this client's session.
    pub own: bool,
}

/// A client with its session. Begins it when it is first asked something.
#[derive(Debug)]
pub struct Client {
    options: Options,
    session: Session,
    /// Taken out while a request is under way: one that was given up leaves none behind whose answers come too late.
    connection: Option<Connection>,
    /// When the session is over, whether a server can be asked about it or not: counted from the last word of one.
    over_at: Instant,
    next_server: usize,
}

impl Client {
    /// A client; nobody is asked yet.
    pub fn new(options: Options) -> Self {
        let mut client =
            Self { options, session: Session::default(), connection: None, over_at: Instant::now(), next_server: 0 };
        client.forget();
        client
    }

    /// The node, if there is one.
    ///
    /// # Errors
    /// See [`ZooKeeperError`].
    pub async fn get(&mut self, path: &str, within: Duration) -> Result<Option<Node>, ZooKeeperError> {
        let write = |request: Writer| request.text(path).boolean(false);
        let answer = match self.ask("read", path, Operation::GetData, write, within).await {
            Err(error) if error.code() == Some(Code::NoNode) => return Ok(None),
            answer => answer?,
        };
        let node = node(&answer, self.session.id);
        node.map(Some).ok_or_else(|| ZooKeeperError::Protocol { server: self.server(), what: "a node is too short" })
    }

    /// Changes what a node holds, if it still has this version.
    ///
    /// # Errors
    /// See [`ZooKeeperError`]; [`Code::BadVersion`] when it has another version.
    pub async fn set(
        &mut self,
        path: &str,
        data: &[u8],
        version: Version,
        within: Duration,
    ) -> Result<(), ZooKeeperError> {
        let write = |request: Writer| request.text(path).bytes(data).int(version.0);
        self.ask("write", path, Operation::SetData, write, within).await.map(drop)
    }

    /// Makes a node; its parent must be there.
    ///
    /// # Errors
    /// See [`ZooKeeperError`]; [`Code::NodeExists`], [`Code::NoNode`] when there is no parent.
    pub async fn create(
        &mut self,
        path: &str,
        data: &[u8],
        lifetime: Lifetime,
        acl: Acl,
        within: Duration,
    ) -> Result<(), ZooKeeperError> {
        let write = |request: Writer| {
            let request = request.text(path).bytes(data);
            let request = match acl {
                Acl::Open => request.int(1).int(ALL).text("world").text("anyone"),
                Acl::Owned => request.int(2).int(ALL).text("auth").text("").int(READ).text("world").text("anyone"),
            };
            request.int(lifetime as i32)
        };
        self.ask("create", path, Operation::Create, write, within).await.map(drop)
    }

    /// Makes a node, and those above it that are not there yet, which hold nothing and stay.
    ///
    /// # Errors
    /// See [`ZooKeeperError`]; [`Code::NodeExists`].
    pub async fn create_with_parents(
        &mut self,
        path: &str,
        data: &[u8],
        lifetime: Lifetime,
        acl: Acl,
        within: Duration,
    ) -> Result<(), ZooKeeperError> {
        // From below, since one who may make this one need not be one who may make those above it.
        let mut missing = vec![path.len()];
        while let Some(end) = missing.last().copied() {
            let part = path.get(..end).unwrap_or(path);
            let made = if end == path.len() {
                self.create(part, data, lifetime, acl, within).await
            } else {
                self.create(part, &[], Lifetime::Persistent, acl, within).await
            };
            match made.as_ref().map_err(ZooKeeperError::code) {
                Ok(()) => {}
                Err(Some(Code::NodeExists)) if end < path.len() => {}
                Err(Some(Code::NoNode)) if missing.len() == 1 || missing.len() < path.matches('/').count() => {
                    match part.rfind('/') {
                        Some(parent) if parent > 0 => missing.push(parent),
                        _ => return made,
                    }
                    continue;
                }
                Err(_) => return made,
            }
            missing.pop();
        }
        Ok(())
    }

    /// Says that this client is alive.
    ///
    /// # Errors
    /// See [`ZooKeeperError`].
    pub async fn ping(&mut self, within: Duration) -> Result<(), ZooKeeperError> {
        self.ask("ping", "", Operation::Ping, |request| request, within).await.map(drop)
    }

    /// Ends the session, and with it its ephemeral nodes. Without a server to be told it ends by itself.
    pub async fn close(mut self, within: Duration) {
        // A request that was given up has cost the connection, not the session.
        if self.session.id != 0 {
            // Whether it was heard or not, the session ends.
            let _ = self.ask("end", "", Operation::CloseSession, |request| request, within).await;
        }
    }

    /// How long the session goes on without a word, as the servers have granted it; until there is one, what is to be asked for.
    pub fn session_time(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.session.timeout_ms).unwrap_or_default())
    }

    /// A request over the connection that there is, or over a new one. A connection on which something went wrong is not used again.
    async fn ask(
        &mut self,
        what: &'static str,
        path: &str,
        operation: Operation,
        write: impl FnOnce(Writer) -> Writer,
        within: Duration,
    ) -> Result<Vec<u8>, ZooKeeperError> {
        let end = Instant::now() + within;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(end, within).await?,
        };
        let number = match operation {
            Operation::Ping => PING_NUMBER,
            _ => connection.number(),
        };
        let server = connection.server.clone();
        let asked = connection.ask(number, operation, write, &mut self.session);
        let answer = in_time(asked, end, &server, within).await?;
        self.over_at = Instant::now() + self.session_time();
        match answer {
            Err(Code::SessionExpired) => {
                self.forget();
                return Err(ZooKeeperError::Expired);
            }
            // The next one may know more.
            Err(Code::SessionMoved | Code::ReadOnly) => {}
            _ => self.connection = Some(connection),
        }
        answer.map_err(|code| ZooKeeperError::Refused { what, path: path.to_owned(), code })
    }

    /// Asks each server once for a connection.
    async fn connect(&mut self, end: Instant, within: Duration) -> Result<Connection, ZooKeeperError> {
        if self.session.id != 0 && Instant::now() > self.over_at {
            // A server that was set up anew would refuse it for ever, and not say that it is over.
            self.forget();
            return Err(ZooKeeperError::Expired);
        }
        let count = self.options.servers.len().max(1);
        // One that is silent, as a server that has just been started may be for good, leaves time for the others, and for another attempt before
        // the session is over. A first one has no end to be missed, but a server writes it to its disk.
        let patience = if self.session.id == 0 { within / 2 } else { self.session_time() / CONNECTS_PER_SESSION };
        let share = (within / u32::try_from(count).unwrap_or(u32::MAX)).min(patience);
        let mut failed = None;
        for _ in 0..count {
            let server = self.server();
            let until = end.min(Instant::now() + share);
            let opened = in_time(self.open(&server), until, &server, share).await;
            match opened {
                Err(ZooKeeperError::Expired) => {
                    self.forget();
                    return Err(ZooKeeperError::Expired);
                }
                Err(error) => {
                    self.next_server = self.next_server.wrapping_add(1);
                    failed = Some(error);
                }
                Ok(connection) => {
                    self.over_at = Instant::now() + self.session_time();
                    return Ok(connection);
                }
            }
        }
        Err(failed.unwrap_or(ZooKeeperError::Slow { server: self.server(), within }))
    }

    async fn open(&mut self, server: &str) -> Result<Connection, ZooKeeperError> {
        let mut connection = Connection::open(server, &mut self.session).await?;
        if let Some((name, password)) = &self.options.digest {
            let credentials = format!("{name}:{password}");
            let write = |request: Writer| request.int(0).text(DIGEST).text(&credentials);
            let answer = connection.ask(AUTH_NUMBER, Operation::Auth, write, &mut self.session).await?;
            let refused = |code| ZooKeeperError::Refused { what: "log in as", path: name.clone(), code };
            answer.map_err(refused)?;
        }
        Ok(connection)
    }

    fn server(&self) -> String {
        let servers = &self.options.servers;
        servers.get(self.next_server % servers.len().max(1)).cloned().unwrap_or_default()
    }

    /// The next session is another one.
    fn forget(&mut self) {
        let timeout_ms = i32::try_from(self.options.session.as_millis()).unwrap_or(i32::MAX);
        self.session = Session { timeout_ms, ..Session::default() };
        self.connection = None;
    }
}

async fn in_time<T>(
    asked: impl Future<Output = Result<T, ZooKeeperError>>,
    end: Instant,
    server: &str,
    within: Duration,
) -> Result<T, ZooKeeperError> {
    let late = |_| ZooKeeperError::Slow { server: server.to_owned(), within };
    timeout_at(end, asked).await.map_err(late)?
}

/// Data and `Stat` of a node: of the latter its version and the session that it goes with.
fn node(answer: &[u8], session: i64) -> Option<Node> {
    let mut reader = Reader::new(answer);
    let data = reader.bytes()?.to_owned();
    for _times in ["created by", "changed by", "created at", "changed at"] {
        reader.long()?;
    }
    let version = Version(reader.int()?);
    for _versions in ["of the children", "of the rights"] {
        reader.int()?;
    }
    let owner = reader.long()?;
    Some(Node { data, version, own: owner != 0 && owner == session })
}
