//! Following the configuration: the cluster's document in the store, and the member's own file when it is told to read it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgbaton_config::DynamicConfig;
use pgbaton_core::Observation;
use pgbaton_core::observation::{Initialize, Server};
use pgbaton_postgres::{ControlFile, ServerSignal, write_config};
use pgbaton_types::{BootTime, chain};
use serde_json::{Map, Value};

use crate::clock;
use crate::context::{Config, Context};
use crate::keys;
use crate::observe::Observer;

/// How long a member stays ready for a handover that nobody asks for any more: its settings end queries that conflict with replay.
const READY_TIME: Duration = Duration::from_secs(10);

/// The copy of the document in the data directory, with Patroni's name for it: what holds while the store does not answer.
const CACHE: &str = "patroni.dynamic.json";

/// Follows both configurations.
pub(crate) struct SettingsKeeper {
    path: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    document: Option<Vec<u8>>,
    reload: bool,
    /// The own file names another store, and the cluster is paused.
    leaves_store: bool,
    apply: bool,
    /// When the server was told to reload, in seconds since 1970, until it has.
    reloaded: Option<f64>,
}

impl SettingsKeeper {
    pub(crate) fn new(path: Option<PathBuf>, environment: BTreeMap<String, String>) -> Self {
        Self { path, environment, document: None, reload: false, leaves_store: false, apply: true, reloaded: None }
    }

    /// The own file is to be read again.
    pub(crate) fn reload(&mut self) {
        self.reload = true;
    }

    /// Whether this agent has to begin anew, with another store.
    pub(crate) fn leaves_store(&self) -> bool {
        self.leaves_store
    }

    /// Takes over what changed; `idle`: no operation is under way, so that the server's files may be written.
    pub(crate) async fn follow(&mut self, context: &Context, observer: &mut Observer, idle: bool) {
        if std::mem::take(&mut self.reload) {
            self.read_own(context);
        }
        let document = context.view.keys().get(keys::CONFIG).map(|pair| pair.value.clone());
        if document.is_some() && document != self.document {
            self.read_document(context, document.as_deref().unwrap_or_default());
            self.document = document;
        }
        if self.apply && idle {
            self.apply(context);
        }
        if let Some(reload) = self.reloaded
            && observer.ask_after_reload(reload).await
        {
            self.reloaded = None;
        }
    }

    fn read_own(&mut self, context: &Context) {
        let config = context.config();
        match pgbaton_config::load(self.path.as_deref(), &self.environment) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!("{}", warning.summary());
                }
                if loaded.local.name != config.local.name || loaded.local.scope != config.local.scope {
                    tracing::error!(
                        "name and scope cannot be changed while the agent runs: the old configuration stays"
                    );
                    return;
                }
                if loaded.local.store != config.local.store {
                    if config.settings.paused {
                        self.leaves_store = true;
                    } else {
                        tracing::error!(
                            "another store is taken only while the cluster is paused, so that nobody leads in both: the old configuration stays"
                        );
                    }
                    return;
                }
                if loaded.local.address != config.local.address {
                    tracing::warn!(
                        "the section address is taken over when the agent is started again: the old one stays"
                    );
                }
                let kill_time = config.settings.kill_time;
                context.set_config(Config::new(Arc::new(loaded.local), config.dynamic.clone(), kill_time));
                self.apply = true;
                context.clients.send_replace(context.config().local.clients);
                tracing::info!("the configuration was read again");
            }
            Err(error) => tracing::error!("the configuration is not taken over: {}", chain(&error)),
        }
    }

    fn read_document(&mut self, context: &Context, bytes: &[u8]) {
        let Ok(document) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
            tracing::error!("the key `config` in the store is no JSON object: the old configuration stays");
            return;
        };
        let config = context.config();
        let (dynamic, findings) = DynamicConfig::read(document);
        if dynamic == config.dynamic {
            self.apply = true;
            return;
        }
        for finding in &findings {
            tracing::warn!("the cluster's configuration: {}", finding.summary());
        }
        let paused = dynamic.cluster.pause;
        if paused != config.settings.paused {
            tracing::info!(paused, "maintenance mode");
        }
        context.set_config(Config::new(Arc::clone(&config.local), dynamic, config.settings.kill_time));
        self.apply = true;
    }

    /// Writes the files of a server that is there, and has it read them.
    fn apply(&mut self, context: &Context) {
        let spec = context.spec();
        if !spec.data_dir.join("PG_VERSION").exists() || context.kept().bootstrapping {
            return;
        }
        if !is_ours(context, &spec.data_dir) {
            return;
        }
        let document = serde_json::to_vec(&context.config().dynamic.document).unwrap_or_default();
        let cache = spec.data_dir.join(CACHE);
        if std::fs::read(&cache).ok().as_deref() != Some(&document)
            && let Err(error) = pgbaton_sys::durable::replace(&cache, &document, 0o600)
        {
            tracing::warn!(error = %chain(&error), "the copy of the cluster's configuration was not written");
        }
        match write_config(&spec, &context.recovery()) {
            Ok(written) => {
                self.apply = false;
                for warning in &written.warnings {
                    tracing::warn!("{warning}");
                }
                if written.changed {
                    self.tell_server(context);
                }
            }
            Err(error) => tracing::error!(error = %chain(&error), "the server's configuration was not written"),
        }
    }

    fn tell_server(&mut self, context: &Context) {
        match context.guard.status() {
            Ok(status) if status.postmaster.is_some() => {}
            Ok(_) => return,
            Err(error) => return tracing::warn!(error = %chain(&error), "the guard does not answer"),
        }
        let before = jiff::Timestamp::now().as_duration().as_secs_f64();
        match context.signal(ServerSignal::Reload) {
            Ok(()) => self.reloaded = Some(before),
            Err(error) => tracing::warn!(error = %chain(&error), "the server was not told to read its configuration"),
        }
    }

    /// The upstream's server may have moved: then the files name its new address.
    pub(crate) fn follow_address(&mut self, context: &Context) {
        self.apply |= context.refresh_upstream();
    }

    /// Takes back what made a standby ready for a handover that came to nothing.
    pub(crate) fn end_preparation(&mut self, context: &Context, seen: &Observation) {
        let Some(prepared) = context.following().prepared else { return };
        let leads = seen.store.cluster.leader.as_ref().is_some_and(|leader| leader.epoch == prepared.epoch);
        let running = matches!(seen.local.server, Server::Running { guarded: true, .. });
        let old = clock::now().since(prepared.asked) >= READY_TIME;
        if running && (old || (!leads && seen.store.cluster.leader.is_some())) {
            context.set_prepared(None);
            self.apply = true;
        }
    }
}

/// Whether files in the data directory may be written: its server runs under our guard, or its database is the one that the store names. Another
/// cluster's data stays as it is; what is written too late for a start, the start writes.
fn is_ours(context: &Context, data_dir: &Path) -> bool {
    if context.guard.status().is_ok_and(|status| status.postmaster.is_some()) {
        return true;
    }
    let cluster = keys::cluster(&context.view.keys(), keys::Own::default(), BootTime::default(), 0);
    let Initialize::Done(system_id) = cluster.initialize else { return false };
    ControlFile::read(data_dir).is_ok_and(|control| control.system_id == system_id)
}

/// The document as it was cached, for a start without a store.
pub(crate) fn cached(data_dir: &Path) -> Option<DynamicConfig> {
    let bytes = std::fs::read(data_dir.join(CACHE)).ok()?;
    serde_json::from_slice::<Map<String, Value>>(&bytes).ok().map(|document| DynamicConfig::read(document).0)
}
