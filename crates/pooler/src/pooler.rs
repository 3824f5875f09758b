use std::io;
use std::time::Duration;

use futures::future::try_join_all;
use pgbaton_api::Baton;
use pgbaton_api::layout::PoolerRecord;
use pgbaton_types::{BootTime, Epoch, MemberName, chain};

use crate::console::{Console, ConsoleError, of_database};
use crate::kept::Kept;
use crate::old::OldLinks;
use crate::pauses;
use crate::plan::{self, Before, Held, Step};
use crate::settings::Settings;
use crate::watcher::Watcher;

/// After a failed connection to a server PgBouncer waits this long before the next one, in seconds, unless told otherwise 15: with that, clients
/// would wait for seconds after a failover that took less than one. A server that a pause closed while somebody logged in counts as failed,
/// too (pgbouncer#420).
const LOGIN_RETRY: f64 = 0.1;
/// How long that holds: until the pools have their connections again.
const LOGIN_RETRY_TIME: Duration = Duration::from_secs(5);
/// The setting's name.
const LOGIN_RETRY_NAME: &str = "server_login_retry";

/// Why a PgBouncer is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    /// Its console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A database is not in its configuration.
    #[error("PgBouncer has no database {0}")]
    NoDatabase(String),
    /// It says that it has paused a database, and has connections for it all the same.
    #[error("PgBouncer's database {0} is not paused, although it was told to")]
    NotPaused(String),
    /// The process that ends a pause in any case cannot be started or told.
    #[error("the process that ends a pause in any case cannot be reached")]
    Watcher(#[source] io::Error),
    /// What is paused cannot be remembered.
    #[error("what is paused cannot be kept")]
    Kept(#[source] io::Error),
}

/// A PgBouncer that follows the cluster.
pub struct Pooler {
    settings: Settings,
    console: Option<Console>,
    watcher: Option<Watcher>,
    before: Before,
    record: PoolerRecord,
    kept: Kept,
    /// Connections to servers that are not the one any more.
    old: OldLinks,
    /// When the setting of the login retry is put back.
    login_retry_until: Option<BootTime>,
}

impl Pooler {
    /// Nothing is done yet; what an earlier process left is read.
    pub fn new(settings: Settings) -> Self {
        let kept = Kept::read(&settings.kept);
        let followed = kept.followed.as_ref().map(|(epoch, _)| *epoch);
        let old = OldLinks::left(&kept.old, &settings.writes, now());
        Self {
            settings,
            console: None,
            watcher: None,
            before: Before { followed, ..Before::default() },
            record: PoolerRecord::default(),
            kept,
            old,
            login_retry_until: None,
        }
    }

    /// What the holder is to know.
    pub fn record(&self) -> &PoolerRecord {
        &self.record
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When it has to be looked at again, at the latest.
    pub fn until(&self) -> Option<BootTime> {
        self.before.held.map(|held| held.until)
    }

    /// What is to be done.
    pub fn next(&self, baton: &Baton) -> Step {
        plan::next(&self.before, baton, now())
    }

    /// Takes back what an earlier process has left: clients that are held, and a setting.
    ///
    /// # Errors
    /// [`PoolerError`]; it is to be tried again.
    pub async fn clean_up(&mut self) -> Result<(), PoolerError> {
        if !self.kept.paused.is_empty() {
            tracing::warn!(databases = ?self.kept.paused, "an earlier process has left clients waiting: they go on");
            self.let_go().await?;
        }
        self.put_back().await
    }

    /// Pauses the databases that write, and looks whether they are. What came of it is in the record.
    pub async fn pause(&mut self, epoch: Epoch, id: u64) {
        let until = now() + self.settings.hold_within;
        let held = self.hold(until).await;
        self.before.answered = Some((epoch, id));
        self.record = PoolerRecord { answered: Some(id), holds: held.is_ok(), why: None };
        match held {
            Ok(()) => {
                tracing::info!(pooler = self.settings.name, %epoch, "clients wait for the next primary");
                self.before.held = Some(Held { epoch, id, until });
            }
            Err(error) => {
                tracing::error!(pooler = self.settings.name, error = %chain(&error), "clients are not held");
                self.record.why = Some(chain(&error));
                // Whatever was paused goes on, at once or with the next try.
                self.before.held = Some(Held { epoch, id, until: now() });
            }
        }
    }

    async fn hold(&mut self, until: BootTime) -> Result<(), PoolerError> {
        let known = self.console().await?.databases().await?;
        let missing = |name: &&String| known.iter().all(|database| database.name != **name);
        if let Some(missing) = self.settings.writes.iter().find(missing) {
            return Err(PoolerError::NoDatabase(missing.clone()));
        }
        let ours = pauses::ours(&self.settings.writes, &known, &self.kept.paused);
        self.watch(&ours, until).await.map_err(PoolerError::Watcher)?;
        self.kept.paused.clone_from(&ours);
        self.keep()?;
        self.shorten_login_retry().await?;
        // Whoever was frozen in between is not answered any more: the watcher has ended the pause.
        let within = self.settings.pause_within.min(self.settings.hold_within);
        let pause = async |name: &String| {
            // A connection of its own: it is busy until the last transaction has ended.
            Console::connect(&self.settings.console).await?.pause(name, within).await
        };
        try_join_all(ours.iter().map(pause)).await?;
        self.verify().await
    }

    /// PgBouncer's word is not enough: before 1.5.5 a pause of one database let new connections through (pgbouncer#35).
    async fn verify(&mut self) -> Result<(), PoolerError> {
        let console = self.console().await?;
        let (databases, links) = (console.databases().await?, console.links().await?);
        for name in &self.settings.writes {
            let paused = databases.iter().any(|database| database.name == *name && database.paused);
            if !paused || links.iter().any(|link| link.id.database == *name) {
                return Err(PoolerError::NotPaused(name.clone()));
            }
        }
        Ok(())
    }

    /// Ends a pause without another primary. Whoever still counts on it learns that it does not hold any more.
    ///
    /// # Errors
    /// [`PoolerError`]; it is to be tried again.
    pub async fn go_on(&mut self, why: &str) -> Result<(), PoolerError> {
        self.let_go().await?;
        tracing::info!(pooler = self.settings.name, "clients go on: {why}");
        if self.record.holds {
            self.record.holds = false;
            self.record.why = Some(why.to_owned());
        }
        Ok(())
    }

    async fn let_go(&mut self) -> Result<(), PoolerError> {
        let paused = self.kept.paused.clone();
        let console = self.console().await?;
        for name in &paused {
            console.resume(name).await?;
        }
        self.released(Vec::new()).await
    }

    /// Leads to the primary of a reign: its file is read anew, connections to servers as they were are closed, and what they said of
    /// themselves is forgotten (pgbouncer#859); clients that are held go on.
    ///
    /// # Errors
    /// [`PoolerError`]; it is to be tried again.
    pub async fn follow(&mut self, epoch: Epoch, primary: &MemberName) -> Result<(), PoolerError> {
        self.shorten_login_retry().await?;
        let held = self.kept.paused.clone();
        let mut commands = self.reading();
        if held.is_empty() {
            // The file may have brought databases.
            self.console().await?.all(&commands).await?;
            commands.clear();
        }
        let known = self.console().await?.databases().await?;
        let there = |name: &&String| known.iter().any(|database| database.name == **name);
        commands.extend(self.settings.databases().filter(there).map(|name| of_database("RECONNECT", name)));
        let paused = |name: &&String| known.iter().any(|database| database.name == **name && database.paused);
        commands.extend(held.iter().filter(paused).map(|name| of_database("RESUME", name)));
        let done = self.console().await?.all(&commands).await;
        let known = self.console().await?.databases().await?;
        let still = held.into_iter().filter(|name| known.iter().any(|one| one.name == *name && one.paused)).collect();
        self.released(still).await?;
        done?;
        // Only then there may be connections that nobody closes. With another reign of the same primary those from before it stay old, and what
        // leads to it does not become so.
        if self.kept.followed.as_ref().is_some_and(|(_, before)| before != primary) {
            let links = self.console().await?.links().await?;
            self.old.add(links, &self.settings.writes, now());
            self.kept.old = self.old.ids();
        }
        self.before.followed = Some(epoch);
        self.kept.followed = Some((epoch, primary.clone()));
        tracing::info!(pooler = self.settings.name, %epoch, %primary, "leads to the primary");
        self.keep()
    }

    /// Has the file of its databases read, which has changed without another primary.
    ///
    /// # Errors
    /// [`PoolerError`]; it is to be tried again.
    pub async fn reload(&mut self) -> Result<(), PoolerError> {
        let commands = self.reading();
        Ok(self.console().await?.all(&commands).await?)
    }

    /// What was set goes with a reload (PgBouncer 1.18), and is set again in the same breath.
    fn reading(&self) -> Vec<String> {
        let again = self.kept.login_retry.is_some().then(|| set_login_retry(&LOGIN_RETRY.to_string()));
        std::iter::once("RELOAD".to_owned()).chain(again).collect()
    }

    /// What is to be looked at again and again: whether PgBouncer is there, whether old connections are left, and what was set for a while.
    ///
    /// # Errors
    /// [`PoolerError`]; it is to be tried again.
    pub async fn tend(&mut self) -> Result<(), PoolerError> {
        if self.before.held.is_none() && !self.kept.paused.is_empty() {
            // Cut, and not let go on yet.
            self.let_go().await?;
        }
        if !self.old.is_empty() {
            let links = self.console().await?.links().await?;
            if self.old.forget_closed(&links) {
                self.kept.old = self.old.ids();
                self.keep()?;
            }
            let due = self.old.due(now(), self.settings.kill_within);
            if !due.is_empty() {
                self.cut(&due).await?;
            }
        }
        if self.login_retry_until.is_some_and(|until| now().reached(until)) {
            self.put_back().await?;
        }
        let known = self.console().await?.databases().await?;
        let missing = |name: &&String| known.iter().all(|database| database.name != **name);
        match self.settings.databases().find(missing) {
            Some(missing) => Err(PoolerError::NoDatabase(missing.clone())),
            None => Ok(()),
        }
    }

    /// A server that is frozen never ends a transaction, and its clients would wait for hours.
    async fn cut(&mut self, databases: &[String]) -> Result<(), PoolerError> {
        tracing::warn!(
            pooler = self.settings.name,
            ?databases,
            within_s = self.settings.kill_within.as_secs(),
            "connections to the old primary have not ended: all clients of these databases are cut"
        );
        // KILL leaves the database paused: that must end as any pause does. One that somebody else has paused is cut, too, and stays paused.
        let known = self.console().await?.databases().await?;
        let ours = pauses::ours(databases, &known, &self.kept.paused);
        self.watch(&ours, now() + self.settings.hold_within).await.map_err(PoolerError::Watcher)?;
        self.kept.paused = ours;
        self.keep()?;
        let kills: Vec<String> = databases.iter().map(|name| of_database("KILL", name)).collect();
        let killed = self.console().await?.all(&kills).await;
        self.let_go().await?;
        Ok(killed?)
    }

    /// Puts back what was set for a while: this process ends.
    ///
    /// # Errors
    /// [`PoolerError`]; the next one does it.
    pub async fn leave(&mut self) -> Result<(), PoolerError> {
        self.put_back().await
    }

    /// Tells the watcher, which is started if there is none.
    async fn watch(&mut self, databases: &[String], until: BootTime) -> io::Result<()> {
        if !self.watcher.as_mut().is_some_and(Watcher::lives) {
            self.watcher = Some(Watcher::start()?);
        }
        match &mut self.watcher {
            Some(watcher) => watcher.hold(&self.settings.console, databases, until).await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Nobody is held any more but for these databases, which the next try is for.
    async fn released(&mut self, still: Vec<String>) -> Result<(), PoolerError> {
        self.kept.paused = still;
        if !self.kept.paused.is_empty() {
            return self.keep();
        }
        self.before.held = None;
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.goes_on().await
        {
            // One that is gone watches nothing.
            tracing::debug!(%error, "the process that ends pauses was not told");
            self.watcher = None;
        }
        self.keep()
    }

    async fn shorten_login_retry(&mut self) -> Result<(), PoolerError> {
        self.login_retry_until = Some(now() + LOGIN_RETRY_TIME + self.settings.hold_within);
        if self.kept.login_retry.is_some() {
            return Ok(());
        }
        let Some(value) = self.console().await?.setting(LOGIN_RETRY_NAME).await? else { return Ok(()) };
        if value.parse::<f64>().is_ok_and(|seconds| seconds > LOGIN_RETRY) {
            self.kept.login_retry = Some(value);
            self.keep()?;
            self.console().await?.all(&[set_login_retry(&LOGIN_RETRY.to_string())]).await?;
        }
        Ok(())
    }

    async fn put_back(&mut self) -> Result<(), PoolerError> {
        if let Some(value) = self.kept.login_retry.clone() {
            self.console().await?.all(&[set_login_retry(&value)]).await?;
            self.kept.login_retry = None;
            self.keep()?;
        }
        self.login_retry_until = None;
        Ok(())
    }

    fn keep(&self) -> Result<(), PoolerError> {
        self.kept.write(&self.settings.kept).map_err(PoolerError::Kept)
    }

    /// The connection to its console, made anew if it was closed.
    async fn console(&mut self) -> Result<&Console, PoolerError> {
        let open = self.console.take().filter(|console| !console.is_closed());
        let console = match open {
            Some(console) => console,
            None => Console::connect(&self.settings.console).await?,
        };
        Ok(self.console.insert(console))
    }
}

fn set_login_retry(value: &str) -> String {
    format!("SET {LOGIN_RETRY_NAME} = '{}'", value.replace('\'', "''"))
}

fn now() -> BootTime {
    BootTime(pgbaton_sys::clock::boottime())
}
