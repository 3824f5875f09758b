//! The writer's sessions: one for each server, over and over.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use super::record::{Commit, Failure, FailureClass, Record};
use super::{INTERVAL, Target, lock};
use crate::clock;

/// Longest wait for a connection. A host that is lost answers nothing; one that is alive answers in milliseconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Longest wait for an answer. Longer than any checkpoint on a busy disk, shorter than any failover worth measuring.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two attempts to connect, so that a server that is down costs no processor.
const RECONNECT: Duration = Duration::from_millis(10);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS pgbaton_writer (id bigint PRIMARY KEY)";

/// `undefined_table`, PostgreSQL's appendix A: the table was never made, or was lost with what was not replicated.
const UNDEFINED_TABLE: &str = "42P01";

/// Writes until the future is dropped.
pub(super) async fn write_to_all(target: &Target, record: &Mutex<Record>) {
    join_all((0..target.servers.len()).map(|server| write_to(target, server, record))).await;
}

async fn write_to(target: &Target, server: usize, record: &Mutex<Record>) {
    loop {
        let connected = timeout(CONNECT_LIMIT, config(target, target.servers[server]).connect(NoTls)).await;
        let class = match connected {
            Ok(Ok((client, mut connection))) => {
                let warned = AtomicBool::new(false);
                let messages = async {
                    // Ends with the connection; what is said on the way is looked at for warnings only.
                    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                        if is_warning(&message) {
                            warned.store(true, Ordering::Relaxed);
                        }
                    }
                };
                tokio::select! {
                    // In this order: an answer that came together with the connection's end is still an answer.
                    biased;
                    class = session(&client, server, &warned, record) => class,
                    () = messages => FailureClass::ConnectionLost,
                }
            }
            Ok(Err(error)) => classify(&error),
            Err(_) => FailureClass::TimedOut,
        };
        lock(record).refused(server, class);
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Uses one connection until it is of no use any more, and says why.
async fn session(client: &Client, server: usize, warned: &AtomicBool, record: &Mutex<Record>) -> FailureClass {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writable = false;
    loop {
        ticks.tick().await;
        if !writable {
            match is_writable(client).await {
                Ok(answer) => writable = answer,
                Err(class) => return class,
            }
        }
        if writable {
            match insert(client, server, warned, record).await {
                Ok(()) => {}
                Err(FailureClass::Other(code)) if code == UNDEFINED_TABLE => {
                    if let Err(class) = ask(client, TABLE).await {
                        return class;
                    }
                }
                Err(class) => return class,
            }
        }
    }
}

/// Sends one row and records what became of it, also when this future is dropped while it is under way.
async fn insert(
    client: &Client,
    server: usize,
    warned: &AtomicBool,
    record: &Mutex<Record>,
) -> Result<(), FailureClass> {
    let id = lock(record).take_id();
    let begun = clock::now();
    warned.store(false, Ordering::Relaxed);
    let mut doubt = InDoubt { id, server, begun, record, class: Some(FailureClass::ConnectionLost) };
    let answer = ask(client, &format!("INSERT INTO pgbaton_writer VALUES ({id})")).await;
    let ended = clock::now();
    let answer = if warned.load(Ordering::Relaxed) { answer.and(Err(FailureClass::Unacknowledged)) } else { answer };
    match answer {
        Ok(_) => {
            doubt.class = None;
            lock(record).committed(Commit { id, server, begun, ended });
            Ok(())
        }
        Err(class) => {
            doubt.class = Some(class.clone());
            Err(class)
        }
    }
}

/// A row that has been sent: recorded as failed when this is dropped, unless its class was taken away.
struct InDoubt<'a> {
    id: i64,
    server: usize,
    begun: pgbaton_types::BootTime,
    record: &'a Mutex<Record>,
    class: Option<FailureClass>,
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if let Some(class) = self.class.take() {
            let (id, server, begun) = (self.id, self.server, self.begun);
            lock(self.record).failed(Failure { id, server, begun, ended: clock::now(), class });
        }
    }
}

/// Asked instead of trying to write: a standby logs every write that it refuses.
async fn is_writable(client: &Client) -> Result<bool, FailureClass> {
    let rows = ask(client, "SHOW transaction_read_only").await?;
    let off =
        |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"));
    Ok(rows.iter().any(off))
}

async fn ask(client: &Client, statement: &str) -> Result<Vec<SimpleQueryMessage>, FailureClass> {
    match timeout(ANSWER_LIMIT, client.simple_query(statement)).await {
        Ok(Ok(messages)) => Ok(messages),
        Ok(Err(error)) => Err(classify(&error)),
        Err(_) => Err(FailureClass::TimedOut),
    }
}

/// The writer's rows on a server, from number `first` on.
pub(super) async fn rows(
    target: &Target,
    server: SocketAddr,
    first: i64,
) -> Result<BTreeSet<i64>, tokio_postgres::Error> {
    let (client, connection) = config(target, server).connect(NoTls).await?;
    let read = async {
        let rows = client.query("SELECT id FROM pgbaton_writer WHERE id >= $1", &[&first]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    };
    tokio::select! {
        biased;
        rows = read => rows,
        // The query above ends with an error of its own when the connection does; one that ends well cannot come first.
        Err(error) = connection => Err(error),
    }
}

fn config(target: &Target, server: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user(&target.user).dbname(&target.database);
    config.application_name("pgbaton_writer").connect_timeout(CONNECT_LIMIT);
    if let Some(password) = &target.password {
        config.password(password);
    }
    config
}

/// Whether the server has a warning to give. The one that matters says that a commit was acknowledged without the
/// synchronous standby; its words depend on the server's language, so every warning counts.
fn is_warning(message: &AsyncMessage) -> bool {
    matches!(message, AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning))
}

fn classify(error: &tokio_postgres::Error) -> FailureClass {
    if let Some(code) = error.as_db_error().map(DbError::code) {
        return match code.code() {
            "57P03" => FailureClass::NotAccepting,
            "57P01" | "57P02" => FailureClass::Terminated,
            "25006" => FailureClass::ReadOnly,
            other => FailureClass::Other(other.to_owned()),
        };
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionRefused) => return FailureClass::Refused,
            Some(std::io::ErrorKind::TimedOut | std::io::ErrorKind::HostUnreachable) => return FailureClass::TimedOut,
            Some(_) => return FailureClass::ConnectionLost,
            None => cause = error.source(),
        }
    }
    if error.is_closed() { FailureClass::ConnectionLost } else { FailureClass::Other(error.to_string()) }
}
