//! Load beside the writer whose rows are counted: sessions that update many rows at once, so that there is WAL to ship,
//! to replay and to checkpoint.

use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use pgbaton_testkit::writer::Target;
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};

use crate::Outcome;

/// Sessions with each server: as many as a small machine has processors.
const SESSIONS: usize = 2;

/// Pause between two updates of a session: load, not starvation, on a machine that holds all members at once.
const BETWEEN: Duration = Duration::from_millis(10);

/// Pause before a new attempt to connect or to write: a standby refuses at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for an answer; a frozen server gives none.
const LIMIT: Duration = Duration::from_secs(3);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS pgbaton_load AS \
                     SELECT id, repeat('x', 200) AS filler FROM generate_series(1, 4000) AS id";

/// Running sessions; they end when this is dropped.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts loading whichever server takes writes.
    pub(crate) fn start(target: &Target) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, mut stopped) = watch::channel(false);
        let target = target.clone();
        let body = move || {
            runtime.block_on(async {
                let sessions = (0..target.servers.len() * SESSIONS).map(|number| session(&target, number));
                tokio::select! {
                    _ = join_all(sessions) => {}
                    // An error means that the load was dropped: it ends as well.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Losing it is right: nothing depends on how it ended.
            let _ = thread.join();
        }
    }
}

async fn session(target: &Target, number: usize) {
    let server = target.servers[number / SESSIONS];
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user(&target.user).dbname(&target.database);
    config.application_name("pgbaton_load").connect_timeout(LIMIT);
    if let Some(password) = &target.password {
        config.password(password);
    }
    loop {
        // Every end is as good as another: the next turn begins with a new connection.
        let _ = tokio::time::timeout(LIMIT * 10, write(&config, number % SESSIONS)).await;
        // waits: between attempts, not for a state
        tokio::time::sleep(PAUSE).await;
    }
}

async fn write(config: &Config, part: usize) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let work = async {
        let rows = client.simple_query("SHOW transaction_read_only").await?;
        let writable = rows.iter().any(
            |message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("off")),
        );
        if !writable {
            return Ok(());
        }
        client.simple_query(TABLE).await?;
        loop {
            let update = format!("UPDATE pgbaton_load SET filler = md5(random()::text) WHERE id % 8 = {part}");
            client.simple_query(&update).await?;
            // waits: between updates
            tokio::time::sleep(BETWEEN).await;
        }
    };
    tokio::select! {
        biased;
        ended = work => ended,
        ended = connection => ended,
    }
}
