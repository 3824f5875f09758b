//! Known bugs of cluster managers, as switches: the simulator puts them back one at a time to show that it finds them.
//!
//! The switches exist only in the package that the simulator builds from these same sources. In `pgbaton-core` itself
//! [`Bugs::has`] is the constant `false`, so that no shipped binary can contain one.

/// One bug, named after the report in which users met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bug {
    /// A holder whose key vanished takes the lease again without having looked at the cluster (patroni#2779).
    Patroni2779,
    /// A peer that says that it runs as a primary is not believed (patroni#2773).
    Patroni2773,
    /// The loss of the lease is not delivered to the holder (kubernetes#23731).
    Kubernetes23731,
    /// The deadline is not looked at while a renewal is under way (kubernetes#44887).
    Kubernetes44887,
    /// The deadline is reckoned with the own ttl instead of the granted one (fabric8io/kubernetes-client#7249).
    Fabric87249,
    /// The deadline counts from the answer instead of the request.
    DeadlineFromReply,
    /// The guard is disarmed before the last backend is gone (patroni#3639).
    Patroni3639,
    /// A server that does not answer has no role, so it is not demoted (patroni#2082).
    Patroni2082,
    /// The old primary, not yet demoted, takes the lease back (cloudnative-pg#2513).
    Cnpg2513,
    /// A restarted old primary comes up as a primary (repmgr#766).
    Repmgr766,
    /// The own position is compared with itself (stolon@3065459).
    StolonSelf,
    /// The former holder's position keeps everybody from leading (patroni#1054).
    Patroni1054,
    /// The server's own "last received" after a restart, the start of a segment, goes into the vote (PAF#228).
    Paf228,
    /// Timelines are compared by number instead of ancestry (`pg_auto_failover`#683).
    Pgaf683,
    /// A promotion takes the next number that it knows instead of reserving one (patroni#890).
    Patroni890,
    /// A directory counts as diverged, without proof, and is put away (patroni#2220).
    Patroni2220,
    /// A failed rewind puts the directory away although the configuration forbids it (patroni#2302).
    Patroni2302,
    /// A timeline that is missing in the history means that no rewind is needed (patroni#2118).
    Patroni2118,
    /// A standby writes `initialize` into a store that was wiped (patroni#2970).
    Patroni2970,
    /// A virtual address stays on the host whose process was killed (keepalived#2361).
    Keepalived2361,
}

/// The bugs that are put back in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bugs {
    #[cfg(feature = "bugs")]
    active: Option<Bug>,
}

impl Bugs {
    /// Whether `bug` is put back.
    #[cfg(not(feature = "bugs"))]
    #[allow(clippy::unused_self, reason = "the same signature as with the switches")]
    pub const fn has(self, _bug: Bug) -> bool {
        false
    }

    /// Whether `bug` is put back.
    #[cfg(feature = "bugs")]
    pub fn has(self, bug: Bug) -> bool {
        self.active == Some(bug)
    }

    /// Puts one bug back.
    #[cfg(feature = "bugs")]
    pub fn with(bug: Bug) -> Self {
        Self { active: Some(bug) }
    }
}

#[cfg(feature = "bugs")]
impl Bug {
    /// All of them, with the names by which the simulator's command line knows them.
    pub const ALL: [(&'static str, Self); 20] = [
        ("patroni-2779", Self::Patroni2779),
        ("patroni-2773", Self::Patroni2773),
        ("kubernetes-23731", Self::Kubernetes23731),
        ("kubernetes-44887", Self::Kubernetes44887),
        ("fabric8-7249", Self::Fabric87249),
        ("deadline-from-reply", Self::DeadlineFromReply),
        ("patroni-3639", Self::Patroni3639),
        ("patroni-2082", Self::Patroni2082),
        ("cnpg-2513", Self::Cnpg2513),
        ("repmgr-766", Self::Repmgr766),
        ("stolon-3065459", Self::StolonSelf),
        ("patroni-1054", Self::Patroni1054),
        ("paf-228", Self::Paf228),
        ("pgaf-683", Self::Pgaf683),
        ("patroni-890", Self::Patroni890),
        ("patroni-2220", Self::Patroni2220),
        ("patroni-2302", Self::Patroni2302),
        ("patroni-2118", Self::Patroni2118),
        ("patroni-2970", Self::Patroni2970),
        ("keepalived-2361", Self::Keepalived2361),
    ];
}
