//! Which primary is named somewhere, since when: looked at each millisecond.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pgbaton_testkit::clock;
use pgbaton_testkit::wait::{self, TimedOut};
use pgbaton_types::BootTime;
use pgbaton_zookeeper::{Client, Options};

/// Time between two looks: what a figure may be wrong by, besides the time that a look takes.
const INTERVAL: Duration = Duration::from_millis(1);
/// Longest time for one look.
const WITHIN: Duration = Duration::from_secs(5);

type Names = Mutex<Vec<(BootTime, String)>>;

/// Looks until it is dropped.
pub(crate) struct Seen {
    names: Arc<Names>,
}

impl Seen {
    /// Looks at the record in a node.
    pub(crate) fn in_zookeeper(address: String, path: &'static str) -> Self {
        Self::by(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let mut client =
                Client::new(Options { servers: vec![address], session: Duration::from_secs(5), digest: None });
            Some(move || {
                let node = runtime.block_on(client.get(path, WITHIN)).ok()??;
                let record: serde_json::Value = serde_json::from_slice(&node.data).ok()?;
                Some(record["primary"]["name"].as_str()?.to_owned())
            })
        })
    }

    /// Looks at the last line of a file.
    pub(crate) fn in_file(path: PathBuf) -> Self {
        Self::by(move || Some(move || Some(std::fs::read_to_string(&path).ok()?.lines().last()?.to_owned())))
    }

    fn by<Look: FnMut() -> Option<String>>(make: impl FnOnce() -> Option<Look> + Send + 'static) -> Self {
        let names = Arc::new(Names::default());
        let seen = Arc::downgrade(&names);
        std::thread::spawn(move || {
            let Some(mut look) = make() else { return };
            while seen.strong_count() > 0 {
                if let Some(name) = look() {
                    remember(&seen, name);
                }
                // waits: for what a publisher writes when the cluster has changed
                std::thread::sleep(INTERVAL);
            }
        });
        Self { names }
    }

    /// When this name was seen first after that.
    pub(crate) fn wait_for(&self, name: &str, after: BootTime, limit: Duration) -> Result<BootTime, TimedOut> {
        wait::until(&format!("{name} to be published"), limit, || {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let found = names.iter().find(|(at, found)| *at > after && found == name);
            found.map(|(at, _)| *at).ok_or_else(|| format!("{:?}", names.last()))
        })
    }
}

fn remember(names: &Weak<Names>, name: String) {
    let Some(names) = names.upgrade() else { return };
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    if names.last().is_none_or(|(_, last)| *last != name) {
        names.push((clock::now(), name));
    }
}
