//! From the moment at which a server takes writes to the moment at which its followers are there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use pgbaton_testkit::clock;
use pgbaton_testkit::cluster::{Cluster, SUPERUSER, SUPERUSER_PASSWORD};
use pgbaton_testkit::router::Router;
use pgbaton_testkit::{Launch, OsUser, Process, TempDir};
use pgbaton_types::BootTime;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use crate::{Figures, LIMIT, Options, Outcome, note, switchover};

/// How often it is looked: what is measured is tens of milliseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

pub(crate) fn run(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Outcome {
    let router = Router::start(&options.pgbaton, cluster, "", "")?;
    let user = OsUser::for_servers()?;
    let directory = TempDir::new("changes", &user)?;
    let file = directory.path().join("environment");
    let _rendering = render(cluster, options, &directory, &file, &user)?;
    let (mut written, mut rendered) = (Vec::new(), Vec::new());
    for round in 1..=options.changes {
        cluster.wait_healthy(LIMIT)?;
        let from = cluster.wait_primary(LIMIT)?;
        let to = (from + 1) % cluster.size();
        let stop = Arc::new(AtomicBool::new(false));
        let promoted = watch(&stop, Wait::Promoted(cluster.servers()[to]));
        let through = watch(&stop, Wait::Written { router: router.writes(), server: cluster.postgres_port(to) });
        let name = format!("PGBATON_PRIMARY={}\n", cluster.name(to));
        let made = watch(&stop, Wait::Rendered { file: file.clone(), name });
        let switched = switchover(cluster);
        if switched.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let [promoted, through, made] = [promoted, through, made].map(|thread| thread.join().ok().flatten());
        switched?;
        let (Some(promoted), Some(through), Some(made)) = (promoted, through, made) else {
            return Err("a follower did not come".into());
        };
        let after = |instant: BootTime| instant.0 as f64 / 1e6 - promoted.0 as f64 / 1e6;
        note(&format!(
            "change {round}: written through the router after {:.1} ms, file after {:.1} ms",
            after(through),
            after(made)
        ));
        written.push(after(through));
        rendered.push(after(made));
    }
    figures.add("role change to first write through the router", "ms", "50", written);
    figures.add("role change to file rendered", "ms", "200", rendered);
    Ok(())
}

/// What is waited for.
enum Wait {
    /// A server takes writes.
    Promoted(SocketAddr),
    /// A write through the router has come to the server with that port.
    Written { router: SocketAddr, server: u16 },
    /// A file has this line.
    Rendered { file: PathBuf, name: String },
}

/// A thread that ends with the moment at which it has come about; none: it was told to stop.
fn watch(stop: &Arc<AtomicBool>, wait: Wait) -> JoinHandle<Option<BootTime>> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        match wait {
            Wait::Promoted(server) => runtime.block_on(promoted(server, &stop)),
            Wait::Written { router, server } => runtime.block_on(written(router, server, &stop)),
            Wait::Rendered { file, name } => rendered(&file, &name, &stop),
        }
    })
}

async fn promoted(server: SocketAddr, stop: &AtomicBool) -> Option<BootTime> {
    let (client, connection) = config(server).connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    while !stop.load(Ordering::Relaxed) {
        let rows = client.simple_query("SELECT pg_is_in_recovery()").await.ok()?;
        if value(&rows) == Some("f") {
            return Some(clock::now());
        }
        // waits: for the next look; the server's own log has no finer time
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    None
}

/// Sessions end with the old primary; a new one is held by the router until there is the next.
async fn written(router: SocketAddr, server: u16, stop: &AtomicBool) -> Option<BootTime> {
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) = config(router).connect(NoTls).await else { continue };
        tokio::spawn(connection);
        loop {
            let write =
                "CREATE TABLE IF NOT EXISTS changed (n int); INSERT INTO changed VALUES (1); SELECT inet_server_port()";
            match client.simple_query(write).await {
                Ok(rows) if value(&rows) == Some(&server.to_string()) => return Some(clock::now()),
                Ok(_) if stop.load(Ordering::Relaxed) => return None,
                // waits: for the next write on the old primary, which is to end by the switchover
                Ok(_) => tokio::time::sleep(LOOK_INTERVAL).await,
                Err(_) => break,
            }
        }
    }
    None
}

fn rendered(file: &Path, name: &str, stop: &AtomicBool) -> Option<BootTime> {
    while !stop.load(Ordering::Relaxed) {
        if std::fs::read_to_string(file).is_ok_and(|text| text.contains(name)) {
            return Some(clock::now());
        }
        // waits: for the next look
        sleep(LOOK_INTERVAL);
    }
    None
}

/// The last value of the last row.
fn value(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

fn config(at: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(at.ip().to_string()).port(at.port()).user(SUPERUSER).password(SUPERUSER_PASSWORD).dbname("postgres");
    config
}

fn render(cluster: &Cluster, options: &Options, directory: &TempDir, file: &Path, user: &OsUser) -> Outcome<Process> {
    let text = format!(
        "scope: test\n{}files:\n  - {{path: {}, template: environment}}\n",
        cluster.client_section(),
        file.display()
    );
    let config = directory.file("render.yml", &text, user)?.display().to_string();
    let launch = Launch::new(options.pgbaton.clone(), directory.path().join("render.log"));
    Ok(Process::start(&launch.args(["clients", &config]).user(user))?)
}
