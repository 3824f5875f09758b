//! Who asks: one that asks the coming primary directly whether it is one yet, and one that knows nothing but the address.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::{SUPERUSER, SUPERUSER_PASSWORD};
use pgbaton_types::BootTime;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, NoTls};

use crate::{LIMIT, Outcome};

/// Pause between two questions: what the figures may be off by.
const INTERVAL: Duration = Duration::from_millis(1);
/// A new connection is tried again after this: while the address is nowhere, its packets are lost.
const CONNECT_TIME: Duration = Duration::from_millis(20);

/// The moment at which a server says that it is the primary.
pub(crate) struct Promoted(JoinHandle<Outcome<BootTime>>);

/// The moments of the last answer of another server, and of the first of this one.
pub(crate) struct Reached(JoinHandle<Outcome<(BootTime, BootTime)>>);

impl Promoted {
    /// Asks a standby over a connection that outlives its promotion.
    pub(crate) fn start(server: SocketAddr) -> Self {
        Self(std::thread::spawn(move || {
            limited(async {
                let client = connect(server, LIMIT).await.ok_or("the candidate does not answer")?;
                loop {
                    if ask(&client).await.is_some_and(|(_, recovery)| recovery == "f") {
                        return Ok(clock::now());
                    }
                    sleep(INTERVAL).await;
                }
            })
        }))
    }

    pub(crate) fn wait(self) -> Outcome<BootTime> {
        self.0.join().map_err(|_| "who asks the candidate has panicked")?
    }
}

impl Reached {
    /// Asks whoever is at this address, until it is the server of this directory.
    pub(crate) fn start(address: SocketAddr, directory: String) -> Self {
        Self(std::thread::spawn(move || {
            limited(async {
                let mut last = clock::now();
                loop {
                    let Some(client) = connect(address, CONNECT_TIME).await else { continue };
                    while let Ok(Some((found, _))) = timeout(CONNECT_TIME, ask(&client)).await {
                        let now = clock::now();
                        if found == directory {
                            return Ok((last, now));
                        }
                        last = now;
                        sleep(INTERVAL).await;
                    }
                }
            })
        }))
    }

    pub(crate) fn wait(self) -> Outcome<(BootTime, BootTime)> {
        self.0.join().map_err(|_| "who asks at the address has panicked")?
    }
}

fn limited<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(LIMIT, work).await.map_err(|_| "nobody became the primary in time")? })
}

async fn connect(server: SocketAddr, within: Duration) -> Option<Client> {
    let mut config = Config::new();
    config
        .host(server.ip().to_string())
        .port(server.port())
        .user(SUPERUSER)
        .password(SUPERUSER_PASSWORD)
        .dbname("postgres");
    let (client, connection) = timeout(within, config.connect(NoTls)).await.ok()?.ok()?;
    // It ends with its client.
    tokio::spawn(connection);
    Some(client)
}

/// The directory of the server, and whether it is in recovery.
async fn ask(client: &Client) -> Option<(String, String)> {
    let question = "SELECT current_setting('data_directory'), pg_is_in_recovery()";
    let rows = client.simple_query(question).await.ok()?;
    rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    })
}
