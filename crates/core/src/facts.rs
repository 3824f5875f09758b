//! What follows from an observation without any choice.

use std::time::Duration;

use pgbaton_types::{BootTime, Divergence, Lsn, MemberName, TimelineHistory};

use crate::bugs::Bug;
use crate::decision::OperationKind;
use crate::lease;
use crate::memory::{Memory, Proven};
use crate::observation::{
    Answer, ControlState, Database, Directory, HostFacts, Initialize, LeaderKey, Lease, Listed, Observation, Operation,
    PeerAnswer, PrimaryStatus, Server, StandbyStatus, Work,
};
use crate::settings::Settings;

/// An answer of a peer is used for a choice only while it is not older than this: longer than a question takes on a
/// loaded network, shorter than anything changes that matters.
pub(crate) const ANSWER_AGE_MAX: Duration = Duration::from_secs(2);

impl Listed {
    /// What it said about its host, if that is not too old to choose by: a host that has been silent for longer may run a
    /// primary by now.
    pub(crate) fn heard(&self, now: BootTime) -> Option<&HostFacts> {
        self.host.as_ref().filter(|_| self.asked.is_some_and(|asked| now.since(asked) <= ANSWER_AGE_MAX))
    }
}

impl Observation {
    /// The database in the data directory, if it is one.
    pub(crate) fn database(&self) -> Option<&Database> {
        match &self.local.directory {
            Directory::Database(database) => Some(database),
            _ => None,
        }
    }

    /// What the server answers, if there is a postmaster.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.local.server {
            Server::Running { answer, .. } => Some(answer),
            _ => None,
        }
    }

    /// The store shows the leader key of this lease.
    pub(crate) fn shows(&self, lease: Lease) -> bool {
        self.store.cluster.leader.as_ref().is_some_and(|leader| leader.created == lease.created)
    }

    /// The history was published in an earlier reign. It is in each anew: by it a member knows whether the store remembers everything, and
    /// clients know that the holder takes writes.
    pub(crate) fn reign_is_untold(&self, lease: Lease) -> bool {
        self.store.cluster.history_epoch.is_some_and(|published| published < lease.epoch)
    }

    /// The server's account as a standby, which it stays: not when it was told to become a primary.
    pub(crate) fn standby(&self) -> Option<&StandbyStatus> {
        self.local.server.standby()
    }

    /// The server's account as a primary.
    pub(crate) fn primary(&self) -> Option<&PrimaryStatus> {
        match self.answer() {
            Some(Answer::Primary(status)) => Some(status),
            _ => None,
        }
    }

    /// Not one process of the server is left.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self.local.server, Server::Stopped { .. })
    }

    /// The control file says that no WAL can be written any more, though processes may be left.
    pub(crate) fn shut_down(&self) -> bool {
        self.database().is_some_and(|database| database.state == ControlState::ShutDown)
    }

    /// The lease, if it is worth something: its deadline has not passed, and its key is not known to be gone.
    pub(crate) fn valid_lease(&self, settings: &Settings) -> Option<Lease> {
        let in_time = |lease: &Lease| !lease::expired(self.now, lease.deadline, false, settings.bugs);
        self.lease.filter(|lease| in_time(lease) && !self.key_is_gone(*lease, settings))
    }

    /// The view of the store is newer than the lease and shows another key, or none. An older view says nothing.
    pub(crate) fn key_is_gone(&self, lease: Lease, settings: &Settings) -> bool {
        let view_knows = self.store.revision >= lease.created && !settings.bugs.has(Bug::Kubernetes23731);
        let ours = |leader: &LeaderKey| leader.member == self.me && leader.created == lease.created;
        view_knows && !self.store.cluster.leader.as_ref().is_some_and(ours)
    }

    /// The leader key, if another member holds it.
    pub(crate) fn other_holder(&self) -> Option<&LeaderKey> {
        self.store.cluster.leader.as_ref().filter(|leader| leader.member != self.me)
    }

    /// Whether the view of the store is new enough to choose by.
    pub(crate) fn view_is_fresh(&self, settings: &Settings) -> bool {
        let age_max = settings.retry_timeout.max(settings.loop_wait * 2);
        self.store.as_of.is_some_and(|as_of| self.now.since(as_of) <= age_max)
    }

    /// Since when the store has not answered, for reports.
    pub(crate) fn store_silence(&self) -> String {
        match self.store.as_of {
            Some(as_of) => format!("the store has not answered for {} ms", self.now.since(as_of).as_millis()),
            None => "the store has not answered yet".to_owned(),
        }
    }

    /// The answer of a peer, if it is not too old to choose by.
    pub(crate) fn peer(&self, member: &MemberName) -> Option<&PeerAnswer> {
        self.peers.get(member).filter(|answer| self.now.since(answer.asked) <= ANSWER_AGE_MAX)
    }

    /// The answer of a peer to a question that was sent at `since` or later.
    pub(crate) fn peer_since(&self, member: &MemberName, since: BootTime) -> Option<&PeerAnswer> {
        self.peers.get(member).filter(|answer| answer.asked >= since)
    }

    /// All members with a key, but this one.
    pub(crate) fn other_members(&self) -> impl Iterator<Item = &MemberName> {
        self.store.cluster.members.keys().filter(|name| **name != self.me)
    }

    /// The local history and the end of the local WAL, as far as they are known.
    pub(crate) fn position(&self) -> Option<(&TimelineHistory, Lsn)> {
        match self.answer() {
            Some(Answer::Standby(status)) => Some((&status.history, status.received)),
            Some(Answer::Primary(status)) => Some((&status.history, status.position)),
            _ => self.database().and_then(|database| database.end.map(|end| (&database.history, end))),
        }
    }

    /// Whether the local server may be one that accepts writes, by what was last proven (S19).
    pub(crate) fn may_be_primary(&self, memory: &Memory, settings: &Settings) -> bool {
        // A server that was never seen, and was not started just now: its control file tells what it is.
        let in_production = self.database().is_some_and(|database| database.state == ControlState::InProduction);
        let unseen = memory.proven.is_none() && self.operation.is_none() && in_production;
        let by_memory = memory.proven == Some(Proven::Primary) || unseen;
        match &self.local.server {
            Server::Stopped { .. } => false,
            Server::Dying { .. } => by_memory && !self.shut_down(),
            Server::Running { answer: Answer::Primary(_), .. } => true,
            Server::Running { promoting: true, .. } => !self.shut_down(),
            Server::Running { answer: Answer::Standby(_), .. } => false,
            Server::Running { answer: Answer::Starting | Answer::Silent { .. }, .. } => {
                by_memory && !self.shut_down() && !settings.bugs.has(Bug::Patroni2082)
            }
        }
    }
}

/// Why this member would not lead if there were no leader; none: it would.
pub(crate) fn unfit(settings: &Settings, seen: &Observation) -> Option<String> {
    if settings.nofailover {
        return Some("it has the tag nofailover".to_owned());
    }
    let standby = match &seen.local.server {
        Server::Running { guarded: false, .. } => return Some("its server was not started by its guard".to_owned()),
        Server::Running { promoting: true, .. } => return Some("its server is being promoted".to_owned()),
        Server::Running { answer: Answer::Standby(standby), .. } => standby,
        Server::Running { answer: Answer::Starting, .. } => return Some("its server is starting".to_owned()),
        Server::Running { answer: Answer::Silent { .. }, .. } => return Some("its server does not answer".to_owned()),
        Server::Running { answer: Answer::Primary(_), .. } => {
            return Some("its server is a primary already".to_owned());
        }
        Server::Stopped { .. } if being_cloned(seen) => return Some("it is still being cloned".to_owned()),
        Server::Stopped { .. } | Server::Dying { .. } => return Some("its server does not run".to_owned()),
    };
    if !seen.guard.alive {
        return Some("its guard does not answer".to_owned());
    }
    if !seen.view_is_fresh(settings) {
        return Some(seen.store_silence());
    }
    let Some(database) = seen.database() else { return Some("its data directory cannot be read".to_owned()) };
    let cluster = &seen.store.cluster;
    if let Initialize::Done(system_id) = cluster.initialize
        && system_id != database.system_id
    {
        return Some(format!("its data belongs to the cluster {}, not to {system_id}", database.system_id));
    }
    unfit_by_history(settings, seen, standby)
}

/// The copy of another member's data is not complete yet, or not begun.
fn being_cloned(seen: &Observation) -> bool {
    let cloning = |operation: &Operation| matches!(operation.kind, OperationKind::Clone { .. });
    seen.operation.as_ref().is_some_and(cloning)
        || matches!(seen.local.directory, Directory::Empty | Directory::Incomplete { work: Work::Clone })
}

fn unfit_by_history(settings: &Settings, seen: &Observation, standby: &StandbyStatus) -> Option<String> {
    let cluster = &seen.store.cluster;
    let received = vote_position(settings, standby);
    let lag = cluster.position.bytes_ahead_of(received);
    if lag > settings.maximum_lag_on_failover {
        return Some(format!(
            "it is {lag} bytes behind the last published position {}, more than maximum_lag_on_failover ({})",
            cluster.position, settings.maximum_lag_on_failover
        ));
    }
    // A store that was restored from an older copy does not know a reign that this member has seen: nor does its history.
    let outdated = cluster.history_epoch.is_some_and(|published| published < seen.memory.promised);
    if settings.bugs.has(Bug::Pgaf683) || outdated {
        return None;
    }
    match cluster.history.as_ref().map(|newest| newest.divergence_of(&standby.history, received)) {
        Some(Divergence::At(parted)) => Some(format!("its history parted from the cluster's at {parted}")),
        Some(Divergence::Unrelated) => Some("its history is not the cluster's".to_owned()),
        Some(Divergence::None) | None => None,
    }
}

/// The position that goes into a vote: what was received and flushed, at least what was replayed. Never the server's
/// own "last received", which after a restart without upstream is the start of a segment.
pub(crate) fn vote_position(settings: &Settings, standby: &StandbyStatus) -> Lsn {
    if settings.bugs.has(Bug::Paf228) { standby.reported_received } else { standby.received.max(standby.replayed) }
}
