//! The list `pgbouncer`: each one is led through its console, and is known in the store as long as it answers.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::Baton;
use pgbaton_api::layout::{POOLERS, PoolerRecord};
use pgbaton_config::PgbouncerConfig;
use pgbaton_pooler::{Address, Pooler, PoolerError, Settings, Step};
use pgbaton_store::Session;
use pgbaton_types::{BootTime, chain};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Parts;
use super::files::{self, Made};
use super::follow::Cluster;
use crate::cli::Failure;

/// How often each is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after something that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The longest, when it fails again and again and nobody is held.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long clients that are held may go on waiting for the next primary when this process is told to end.
const STOP_TIME: Duration = Duration::from_secs(4);
/// For how long the store knows a pooler that says nothing any more.
const SESSION_TTL: Duration = Duration::from_secs(10);
/// How often it is told: several times in that.
const SESSION_INTERVAL: Duration = Duration::from_secs(2);
/// How long the store may take.
const STORE_WITHIN: Duration = Duration::from_secs(2);

/// One with the file of its databases.
struct Led {
    pooler: Pooler,
    file: Option<Made>,
    /// Its file has changed, and it has not read it yet.
    unread: bool,
}

/// One of a configuration.
fn led(one: &PgbouncerConfig) -> Result<Led, Failure> {
    let console = Address {
        text: one.console.clone(),
        password: one.password.as_ref().map(|password| password.reveal().to_owned()),
    };
    console.config().map_err(|error| Failure::because(format!("pgbouncer {}: console", one.name), error))?;
    let settings = Settings {
        name: one.name.clone(),
        console,
        writes: one.writes.clone(),
        reads: one.reads.clone(),
        pause_within: one.pause_within,
        hold_within: one.hold_within,
        kill_within: one.kill_within,
        kept: one.state_file.clone(),
    };
    let file = one.file.as_ref().map(|file| files::made(std::slice::from_ref(file))).transpose()?;
    // A process before may have written a file that was not read.
    Ok(Led { pooler: Pooler::new(settings), file: file.and_then(|mut files| files.pop()), unread: true })
}

/// Leads all of them until it is told to stop. Others take over when the configuration is read anew.
pub(super) async fn run(cluster: Cluster, mut parts: Parts) {
    let mut running = JoinSet::new();
    let mut stop = parts.stop.child_token();
    let mut configured = Vec::new();
    loop {
        let now = parts.file.borrow_and_update().pgbouncer.clone();
        if configured != now {
            stop.cancel();
            while running.join_next().await.is_some() {}
            stop = parts.stop.child_token();
            for one in now.clone() {
                let parts = Parts { stop: stop.clone(), ..parts.clone() };
                running.spawn(lead_when_possible(one, cluster.clone(), parts));
            }
            configured = now;
        }
        tokio::select! {
            () = parts.stop.cancelled() => break,
            changed = parts.file.changed() => if changed.is_err() { break },
        }
    }
    stop.cancel();
    while running.join_next().await.is_some() {}
}

/// What keeps one from being led is said, and tried again: a user whom its file is to belong to may not be known yet.
async fn lead_when_possible(one: PgbouncerConfig, cluster: Cluster, parts: Parts) {
    let mut said = None;
    loop {
        match led(&one) {
            Ok(led) => return lead(led, cluster, parts).await,
            Err(failure) => {
                let message = failure.message();
                if message != said {
                    let message = message.clone().unwrap_or_default();
                    tracing::error!(pooler = one.name, %message, "a PgBouncer is not led");
                    said = message.into();
                }
            }
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = sleep(LONGEST_RETRY_PAUSE) => {}
        }
    }
}

/// Leads one. It is known in the store while its console answers.
async fn lead(mut led: Led, cluster: Cluster, mut parts: Parts) {
    let (records, wanted) = watch::channel(None);
    let name = led.pooler.settings().name.clone();
    // Poolers of several hosts may have one name: each is one of its host.
    let key = format!("{}/{name}", parts.host);
    let registered = tokio::spawn(register(cluster, key, wanted));
    let mut said = None;
    let mut clean = false;
    let mut retry = RETRY_PAUSE;
    let mut stop_by = None;
    loop {
        let view = parts.views.borrow_and_update().clone();
        let done = if clean {
            turn(&mut led, &view.baton).await
        } else {
            led.pooler.clean_up().await.map(|()| true).map_err(Into::into)
        };
        clean = clean || done.is_ok();
        tell(&name, &done, &mut said);
        records.send_replace(done.is_ok().then(|| led.pooler.record().clone()));
        let now = BootTime(pgbaton_sys::clock::boottime());
        if stop_by.is_some_and(|stop_by| led.pooler.until().is_none() || now.reached(stop_by)) {
            break;
        }
        retry = if done.is_ok() { RETRY_PAUSE } else { (retry * 2).min(LONGEST_RETRY_PAUSE) };
        let wait = match (&done, led.pooler.until()) {
            (Err(_), Some(_)) => RETRY_PAUSE,
            (Err(_), None) => retry,
            (Ok(true), _) => Duration::ZERO,
            (Ok(false), until) => {
                let left = until.map(|until| until.since(BootTime(pgbaton_sys::clock::boottime())));
                left.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL)
            }
        };
        tokio::select! {
            // Those who are held are about to be led to the next primary.
            () = parts.stop.cancelled(), if stop_by.is_none() => {
                if led.pooler.until().is_none() {
                    break;
                }
                stop_by = Some(now + STOP_TIME);
            }
            changed = parts.views.changed() => if changed.is_err() { break },
            () = sleep(wait) => {}
        }
    }
    if led.pooler.until().is_some()
        && let Err(error) = led.pooler.go_on("this process ends").await
    {
        tracing::error!(pooler = name, error = %chain(&error), "clients are held, and another process lets them go on");
    }
    if let Err(error) = led.pooler.leave().await {
        tracing::warn!(pooler = name, error = %chain(&error), "a setting of PgBouncer was not put back; the next process does it");
    }
    drop(records);
    if let Err(error) = registered.await {
        tracing::error!(%error, "a PgBouncer was not taken out of the store; this is a bug");
    }
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    #[error("its file cannot be made")]
    File(#[source] pgbaton_render::FileError),
    #[error("its file was not made; this is a bug")]
    Task(#[source] tokio::task::JoinError),
}

/// Does what is to be done now, and says whether more may be.
async fn turn(led: &mut Led, baton: &Baton) -> Result<bool, TurnError> {
    match led.pooler.next(baton) {
        Step::Pause { epoch, id } => led.pooler.pause(epoch, id).await,
        Step::GoOn => led.pooler.go_on("the switchover was called off").await?,
        Step::GiveUp => led.pooler.go_on("they have waited for long enough").await?,
        Step::Follow(epoch) => {
            // A step like this is there only with a primary.
            let Some(primary) = &baton.primary else { return Ok(false) };
            make_file(led, baton).await?;
            led.pooler.follow(epoch, &primary.name).await?;
            led.unread = false;
        }
        Step::Nothing => {
            // Standbys come and go as well. While clients are held, only another primary counts.
            if baton.primary.is_some() && led.pooler.until().is_none() {
                make_file(led, baton).await?;
                if led.unread {
                    led.pooler.reload().await?;
                    led.unread = false;
                }
            }
            led.pooler.tend().await?;
            return Ok(false);
        }
    }
    Ok(true)
}

async fn make_file(led: &mut Led, baton: &Baton) -> Result<(), TurnError> {
    let Some(file) = led.file.take() else { return Ok(()) };
    let baton = baton.clone();
    let made = tokio::task::spawn_blocking(move || {
        let outcome = files::apply(&file, &baton);
        (file, outcome)
    });
    let (file, outcome) = made.await.map_err(TurnError::Task)?;
    led.file = Some(file);
    // One that failed may have written it.
    let untouched = outcome.as_ref().is_ok_and(|outcome| *outcome != pgbaton_render::Outcome::Written);
    led.unread |= !untouched;
    outcome.map(|_| ()).map_err(TurnError::File)
}

/// Logs a failure once, and its end.
fn tell(name: &str, done: &Result<bool, TurnError>, said: &mut Option<String>) {
    let failure = done.as_ref().err().map(|error| chain(error));
    match (&failure, said.as_ref()) {
        (Some(failure), before) if before != Some(failure) => {
            tracing::error!(pooler = name, error = %failure, "a PgBouncer does not follow");
        }
        (None, Some(_)) => tracing::info!(pooler = name, "the PgBouncer follows again"),
        _ => {}
    }
    *said = failure;
}

/// Keeps a pooler known in the store, with what it says last, while there is something.
async fn register(cluster: Cluster, name: String, mut wanted: watch::Receiver<Option<PoolerRecord>>) {
    let store = Arc::clone(&cluster.store);
    let session = Session::new(format!("{}{POOLERS}{name}", cluster.prefix));
    let mut silent = false;
    loop {
        let record = wanted.borrow_and_update().clone();
        let now = BootTime(pgbaton_sys::clock::boottime());
        let done = match &record {
            Some(record) => {
                let value = serde_json::to_vec(record).unwrap_or_default();
                session.publish(&*store, &value, SESSION_TTL, STORE_WITHIN, now).await
            }
            None => session.end(&*store, STORE_WITHIN).await,
        };
        match &done {
            Err(error) if !silent => {
                tracing::warn!(pooler = name, error = %chain(error), "the store is not told of a PgBouncer");
            }
            _ => {}
        }
        silent = done.is_err();
        let wait = if silent { RETRY_PAUSE } else { SESSION_INTERVAL };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { break },
            () = sleep(wait) => {}
        }
    }
    if let Err(error) = session.end(&*store, STORE_WITHIN).await {
        tracing::warn!(pooler = name, error = %chain(&error), "a PgBouncer stays in the store until its session ends");
    }
}
