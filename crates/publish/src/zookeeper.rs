use std::time::Duration;

use pgbaton_zookeeper::{Acl, Client, Code, Lifetime, Options, Version, ZooKeeperError};

use crate::record::{Judgement, Record};
use crate::target::{Outcome, TRIES, TargetError, judge};

/// Words in the time of a session: two may get lost.
const BEATS_PER_SESSION: u32 = 3;

/// A node in `ZooKeeper`.
pub(crate) struct ZooKeeper {
    client: Client,
    path: String,
    heartbeat: String,
    publisher: String,
    acl: Acl,
    within: Duration,
}

/// What is at the node.
struct There {
    data: Vec<u8>,
    /// None: there is no node.
    version: Option<Version>,
}

impl ZooKeeper {
    pub(crate) fn new(options: Options, path: &str, publisher: &str, within: Duration) -> Self {
        // Who has a name keeps what it makes; everybody may read it.
        let acl = if options.digest.is_some() { Acl::Owned } else { Acl::Open };
        Self {
            client: Client::new(options),
            path: path.to_owned(),
            heartbeat: format!("{path}/publishers/{publisher}"),
            publisher: publisher.to_owned(),
            acl,
            within,
        }
    }

    pub(crate) async fn publish(&mut self, record: &Record) -> Result<Outcome, TargetError> {
        for _ in 0..TRIES {
            let there = self.there().await?;
            match judge(record, &there.data, &self.path)? {
                Judgement::Same => return Ok(Outcome::Unchanged),
                Judgement::Older => return Ok(Outcome::Older),
                Judgement::Write => {}
            }
            let text = record.text();
            let written = match there.version {
                Some(version) => self.client.set(&self.path, text.as_bytes(), version, self.within).await,
                None => {
                    let kind = Lifetime::Persistent;
                    self.client.create_with_parents(&self.path, text.as_bytes(), kind, self.acl, self.within).await
                }
            };
            match written.as_ref().map_err(ZooKeeperError::code) {
                Ok(()) => return Ok(Outcome::Written),
                // Somebody else was faster.
                Err(Some(Code::BadVersion | Code::NodeExists | Code::NoNode)) => {}
                Err(_) => return written.map(|()| Outcome::Written).map_err(TargetError::ZooKeeper),
            }
        }
        Err(TargetError::Contended { at: self.path.clone() })
    }

    async fn there(&mut self) -> Result<There, TargetError> {
        let mut read = self.client.get(&self.path, self.within).await;
        if matches!(read, Err(ZooKeeperError::Expired)) {
            // Only the heartbeat has gone with it.
            read = self.client.get(&self.path, self.within).await;
        }
        let node = read.map_err(TargetError::ZooKeeper)?;
        let (data, version) = node.map_or((Vec::new(), None), |node| (node.data, Some(node.version)));
        Ok(There { data, version })
    }

    pub(crate) async fn beat(&mut self) -> Result<(), TargetError> {
        let mut found = self.client.get(&self.heartbeat, self.within).await;
        if matches!(found, Err(ZooKeeperError::Expired)) {
            found = self.client.get(&self.heartbeat, self.within).await;
        }
        let made = match found.map_err(TargetError::ZooKeeper)? {
            Some(node) if node.own => return Ok(()),
            Some(_) => return Err(TargetError::NameTaken { at: self.heartbeat.clone() }),
            None => {
                let (name, kind) = (self.publisher.as_bytes(), Lifetime::Ephemeral);
                self.client.create_with_parents(&self.heartbeat, name, kind, self.acl, self.within).await
            }
        };
        match made.as_ref().map_err(ZooKeeperError::code) {
            Err(Some(Code::NodeExists)) => Err(TargetError::NameTaken { at: self.heartbeat.clone() }),
            _ => made.map_err(TargetError::ZooKeeper),
        }
    }

    pub(crate) fn beat_interval(&self) -> Duration {
        self.client.session_time() / BEATS_PER_SESSION
    }

    pub(crate) async fn close(self) {
        self.client.close(self.within).await;
    }
}
