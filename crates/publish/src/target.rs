use std::time::Duration;

use pgbaton_store::StoreError;
use pgbaton_store_etcd::{Options as EtcdOptions, OptionsError};
use pgbaton_zookeeper::{Options as ZooKeeperOptions, ZooKeeperError};

use crate::etcd::Etcd;
use crate::record::{Judgement, Record};
use crate::zookeeper::ZooKeeper;

/// How often a record is read and compared anew because somebody else has changed it at the very moment: other publishers, of whom each writes once.
pub(crate) const TRIES: usize = 5;

/// Where a record is published. It may hold passwords, and is not printed.
#[derive(Clone)]
pub struct TargetSettings {
    /// What it is called in messages.
    pub title: String,
    /// Who publishes: the name of the heartbeat, different for each publisher.
    pub publisher: String,
    /// The longest time for one request.
    pub within: Duration,
    /// Where.
    pub place: Place,
}

/// A place for a record.
#[derive(Clone)]
pub enum Place {
    /// A node in `ZooKeeper`.
    ZooKeeper {
        /// Where it is and who asks.
        options: ZooKeeperOptions,
        /// The node; heartbeats are below `PATH/publishers`.
        path: String,
    },
    /// A key in an etcd.
    Etcd {
        /// Where it is and who asks.
        options: EtcdOptions,
        /// The key; heartbeats are below `KEY/publishers/`.
        key: String,
        /// How long a heartbeat outlives its publisher.
        heartbeat: Duration,
    },
}

/// What came of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Written,
    /// It was there already.
    Unchanged,
    /// One of a later epoch, or of a later revision of the same epoch, is there: it stays.
    Older,
}

/// Why a record is not published.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// `ZooKeeper` cannot be asked, or says no.
    #[error("ZooKeeper")]
    ZooKeeper(#[source] ZooKeeperError),
    /// The etcd cannot be asked, or says no.
    #[error("etcd")]
    Etcd(#[source] StoreError),
    /// The etcd's options make no sense.
    #[error("etcd cannot be asked")]
    Options(#[source] OptionsError),
    /// Something else is there.
    #[error("what is at {at} is no record of pgbaton: remove it, or publish elsewhere")]
    NoRecord {
        /// The node or key.
        at: String,
    },
    /// Another cluster is published there.
    #[error("the record at {at} is of the cluster {scope}: publish each cluster in a place of its own")]
    OtherCluster {
        /// The node or key.
        at: String,
        /// Its cluster.
        scope: String,
    },
    /// A cluster of the same name is published there.
    #[error(
        "the record at {at} is of another cluster with this name (system identifier {there}, here it is {here}): if that one is gone, remove the record"
    )]
    MadeAnew {
        /// The node or key.
        at: String,
        /// The system identifier in the record.
        there: String,
        /// This cluster's.
        here: String,
    },
    /// Others have changed it again and again.
    #[error("the record at {at} was changed by others {TRIES} times while it was compared")]
    Contended {
        /// The node or key.
        at: String,
    },
    /// Somebody else has this heartbeat.
    #[error(
        "another publisher is at {at}, or this one's earlier life has not run out yet: give each publisher a name of its own"
    )]
    NameTaken {
        /// The node or key.
        at: String,
    },
}

/// A target in use.
pub(crate) enum Target {
    ZooKeeper(ZooKeeper),
    Etcd(Etcd),
}

impl Target {
    /// Nobody is asked yet. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the options make no sense.
    pub(crate) fn new(settings: &TargetSettings) -> Result<Self, TargetError> {
        Ok(match &settings.place {
            Place::ZooKeeper { options, path } => {
                Self::ZooKeeper(ZooKeeper::new(options.clone(), path, &settings.publisher, settings.within))
            }
            Place::Etcd { options, key, heartbeat } => {
                Self::Etcd(Etcd::new(options, key, &settings.publisher, *heartbeat, settings.within)?)
            }
        })
    }

    /// Publishes a record, if it is newer than the one that is there.
    pub(crate) async fn publish(&mut self, record: &Record) -> Result<Outcome, TargetError> {
        match self {
            Self::ZooKeeper(target) => target.publish(record).await,
            Self::Etcd(target) => target.publish(record).await,
        }
    }

    /// Says that this publisher is alive.
    pub(crate) async fn beat(&mut self) -> Result<(), TargetError> {
        match self {
            Self::ZooKeeper(target) => target.beat().await,
            Self::Etcd(target) => target.beat().await,
        }
    }

    /// How often that is to be said.
    pub(crate) fn beat_interval(&self) -> Duration {
        match self {
            Self::ZooKeeper(target) => target.beat_interval(),
            Self::Etcd(target) => target.beat_interval(),
        }
    }

    /// Takes the heartbeat away.
    pub(crate) async fn close(self) {
        match self {
            Self::ZooKeeper(target) => target.close().await,
            Self::Etcd(target) => target.close().await,
        }
    }
}

/// What is to be done about what is there.
///
/// # Errors
/// When that is not ours.
pub(crate) fn judge(new: &Record, there: &[u8], at: &str) -> Result<Judgement, TargetError> {
    // A node that was made for those below it.
    if there.is_empty() {
        return Ok(new.judged_by(None));
    }
    let there = Record::read(there).ok_or_else(|| TargetError::NoRecord { at: at.to_owned() })?;
    if there.scope != new.scope {
        return Err(TargetError::OtherCluster { at: at.to_owned(), scope: there.scope });
    }
    let judgement = new.judged_by(Some(&there));
    // An upgrade by `pg_upgrade` has another identifier, too, and a later epoch.
    if judgement == Judgement::Older && new.is_of_another_than(&there) {
        let (there, here) = (there.system_id.unwrap_or_default(), new.system_id.clone().unwrap_or_default());
        return Err(TargetError::MadeAnew { at: at.to_owned(), there, here });
    }
    Ok(judgement)
}
