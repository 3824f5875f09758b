use pgbaton_types::MemberName;

/// The keys of one cluster: `/<namespace>/<scope>/...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    base: String,
}

// Keys below the cluster's prefix: Patroni's.
/// The identity of the cluster's data.
pub const INITIALIZE: &str = "initialize";
/// The dynamic configuration.
pub const CONFIG: &str = "config";
/// Who holds the lease.
pub const LEADER: &str = "leader";
/// What the holder has published of its position.
pub const STATUS: &str = "status";
/// The rows of the timeline's history.
pub const HISTORY: &str = "history";
/// A switchover or failover that is asked for.
pub const FAILOVER: &str = "failover";
/// What all keys of members begin with.
pub const MEMBERS: &str = "members/";

// Our own, which Patroni ignores.
/// The base of epochs: a number that only grows.
pub const EPOCH_BASE: &str = "pgbaton/base";
/// The highest timeline number that was given out.
pub const TIMELINES: &str = "pgbaton/timelines";
/// The timeline that `history` leads to, as its rows do not say when numbers were left out, and the epoch in which it was written.
pub const TIMELINE: &str = "pgbaton/timeline";
/// Who makes the cluster, in a store that lists no hosts: beside the empty `initialize`, without a lease.
pub const CLAIM: &str = "pgbaton/claim";

/// What all keys of poolers begin with; each is bound to a lease of whoever controls that pooler.
pub const POOLERS: &str = "pgbaton/poolers/";

impl Keys {
    /// The keys of `scope` in `namespace`; slashes at the ends and doubled ones do not count.
    pub fn new(namespace: &str, scope: &str) -> Self {
        let parts = [namespace, scope].into_iter().flat_map(|text| text.split('/')).filter(|part| !part.is_empty());
        let mut base = String::from("/");
        for part in parts {
            base.push_str(part);
            base.push('/');
        }
        Self { base }
    }

    /// What all keys of the cluster begin with, with the slash at its end.
    pub fn prefix(&self) -> &str {
        &self.base
    }

    /// The system identifier; empty while a bootstrap is in progress.
    pub fn initialize(&self) -> String {
        self.key("initialize")
    }

    /// The dynamic configuration.
    pub fn config(&self) -> String {
        self.key("config")
    }

    /// The name of the leader, bound to its lease.
    pub fn leader(&self) -> String {
        self.key("leader")
    }

    /// What all member keys begin with.
    pub fn members(&self) -> String {
        self.key("members/")
    }

    /// A member's record, bound to its session.
    pub fn member(&self, name: &MemberName) -> String {
        self.key(&format!("members/{name}"))
    }

    /// The name in a member key.
    pub fn member_name(&self, key: &str) -> Option<MemberName> {
        key.strip_prefix(&self.base)?.strip_prefix("members/")?.parse().ok()
    }

    /// The last published position of the leader.
    pub fn status(&self) -> String {
        self.key("status")
    }

    /// The rows of the timeline history.
    pub fn history(&self) -> String {
        self.key("history")
    }

    /// The switchover or failover that is asked for.
    pub fn failover(&self) -> String {
        self.key("failover")
    }

    /// The synchronous standbys; not written by pgbaton yet.
    pub fn sync(&self) -> String {
        self.key("sync")
    }

    /// A key that Patroni does not know and ignores.
    pub fn own(&self, name: &str) -> String {
        self.key(&format!("pgbaton/{name}"))
    }

    /// What the epochs begin at: a number that only grows.
    pub fn epoch_base(&self) -> String {
        self.own("base")
    }

    /// The highest timeline number that was given out.
    pub fn timelines(&self) -> String {
        self.own("timelines")
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_interface() {
        let keys = Keys::new("service", "demo");
        let name: MemberName = "pg-1".parse().unwrap();
        assert_eq!(keys.leader(), "/service/demo/leader");
        assert_eq!(keys.member(&name), "/service/demo/members/pg-1");
        assert_eq!(keys.member_name("/service/demo/members/pg-1"), Some(name));
        assert_eq!(keys.member_name("/service/other/members/pg-1"), None);
        assert_eq!(keys.epoch_base(), "/service/demo/pgbaton/base");
        for namespace in ["/service/", "service//", "//service"] {
            assert_eq!(Keys::new(namespace, "demo"), keys, "{namespace}");
        }
        assert_eq!(Keys::new("/a/b", "demo").prefix(), "/a/b/demo/");
    }
}
