use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_api::layout::{FailoverRecord, MemberRecord, StatusRecord};
use pgbaton_api::{ClusterDocument, ClusterView};
use pgbaton_store::KeyValue;
use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;
use crate::clock;
use crate::shared::{Shared, Snapshot};

/// How long the store is waited for before the last known view is shown: an operator who looks at a broken cluster wants
/// to see something.
const FRESH_WITHIN: Duration = Duration::from_millis(1500);

/// What clusters and commands read, from one view of the store.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Who holds the leader key.
    pub(super) leader: Option<String>,
    /// The records of the members.
    pub(super) members: BTreeMap<String, MemberRecord>,
    /// What is asked for.
    pub(super) failover: Option<FailoverRecord>,
    /// The last position that the leader published.
    status: StatusRecord,
}

/// The document, and for how long it has not been confirmed.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    document: ClusterDocument,
    /// Our own: the store did not answer, and this is what was known so many milliseconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_ms: Option<u64>,
}

/// `GET /cluster`: a fresh read of the store.
pub(super) async fn cluster(shared: &Shared) -> Answer {
    let now = shared.now();
    let (view, stale_ms) = match shared.store.snapshot(&shared.prefix, FRESH_WITHIN).await {
        Ok(fresh) => (
            View::of(fresh.items.iter().filter_map(|pair| Some((pair.key.strip_prefix(&*shared.prefix)?, pair)))),
            None,
        ),
        Err(error) => {
            tracing::debug!(%error, "the cluster is shown from memory");
            let age = now.observation.store.as_of.map(|as_of| clock::now().since(as_of));
            let millis = age.map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            (View::known(&now), Some(millis))
        }
    };
    let document = ClusterDocument::of(&ClusterView {
        scope: &now.local.scope,
        leader: view.leader.as_deref(),
        members: &view.members,
        optime: view.status.optime,
        paused: now.settings.paused,
        failover: view.failover.as_ref(),
    });
    Answer::json(200, &Shown { document, stale_ms })
}

/// `GET /history`: the rows as they stand in the store.
pub(super) fn history(now: &Snapshot) -> Answer {
    match now.json("history") {
        Some(rows @ Value::Array(_)) => Answer::json(200, &rows),
        _ => Answer::json(200, &Value::Array(Vec::new())),
    }
}

impl View {
    /// What this member has seen last.
    pub(super) fn known(now: &Snapshot) -> Self {
        Self::of(now.keys.iter().map(|(key, pair)| (key.as_str(), pair)))
    }

    /// From keys without the cluster's prefix.
    pub(super) fn of<'a>(pairs: impl Iterator<Item = (&'a str, &'a KeyValue)>) -> Self {
        let mut view = Self::default();
        for (key, pair) in pairs {
            let text = String::from_utf8_lossy(&pair.value);
            match key {
                "leader" => view.leader = Some(text.into_owned()),
                "status" => view.status = StatusRecord::read(&text),
                "failover" => view.failover = FailoverRecord::read(&text),
                _ => {
                    if let Some(name) = key.strip_prefix("members/") {
                        view.members.insert(name.to_owned(), MemberRecord::read(&text));
                    }
                }
            }
        }
        view
    }
}
