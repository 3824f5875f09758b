//! Connections that are left to a server that is not the primary any more. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgbaton_types::BootTime;

use crate::console::{Link, LinkId};

/// Such connections, each with when it was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OldLinks {
    since: BTreeMap<LinkId, BootTime>,
}

impl OldLinks {
    /// Those that an earlier process has left in these databases: for how long they have been old is not known, and counts from now on.
    pub(crate) fn left(ids: &BTreeSet<LinkId>, databases: &[String], now: BootTime) -> Self {
        let ours = ids.iter().filter(|id| databases.contains(&id.database));
        Self { since: ours.map(|id| (id.clone(), now)).collect() }
    }

    /// Another server is the primary, and what led to others is marked: of these databases, all that is left of it is old. What was so
    /// before has been for longer.
    pub(crate) fn add(&mut self, links: Vec<Link>, databases: &[String], now: BootTime) {
        let marked = links.into_iter().filter(|link| link.close_needed && databases.contains(&link.id.database));
        for link in marked {
            self.since.entry(link.id).or_insert(now);
        }
    }

    /// Forgets those that are closed, and says whether there were any. Others that are marked lead to the present primary, which has begun
    /// another reign.
    pub(crate) fn forget_closed(&mut self, links: &[Link]) -> bool {
        let before = self.since.len();
        self.since.retain(|id, _| links.iter().any(|link| link.id == *id));
        self.since.len() != before
    }

    /// The databases with connections that have been old for so long.
    pub(crate) fn due(&self, now: BootTime, within: Duration) -> Vec<String> {
        let due = self.since.iter().filter(|(_, since)| now.since(**since) >= within);
        let databases: BTreeSet<&String> = due.map(|(id, _)| &id.database).collect();
        databases.into_iter().cloned().collect()
    }

    /// There are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// What is to be kept of them.
    pub(crate) fn ids(&self) -> BTreeSet<LinkId> {
        self.since.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_nanos(10);

    fn link(database: &str, ptr: &str, close_needed: bool) -> Link {
        let [database, ptr, connect_time] = [database, ptr, "2026-01-01 00:00:00 UTC"].map(str::to_owned);
        Link { id: LinkId { database, ptr, connect_time }, close_needed }
    }

    fn writes() -> Vec<String> {
        vec!["app_rw".to_owned()]
    }

    #[test]
    fn only_marked_connections_of_databases_that_write_are_old() {
        let mut old = OldLinks::default();
        let links = vec![link("app_rw", "0x1", false), link("app_ro", "0x2", true), link("app_rw", "0x3", true)];
        old.add(links, &writes(), BootTime(100));
        assert_eq!(old.ids().into_iter().map(|id| id.ptr).collect::<Vec<_>>(), ["0x3"]);
        assert_eq!(old.due(BootTime(109), WITHIN), Vec::<String>::new());
        assert_eq!(old.due(BootTime(110), WITHIN), writes());
    }

    #[test]
    fn an_old_connection_stays_so_until_it_is_closed_and_its_time_does_not_begin_anew() {
        let mut old = OldLinks::default();
        old.add(vec![link("app_rw", "0x1", true)], &writes(), BootTime(100));
        // One more primary, and then another reign of it, which marks what leads to it.
        old.add(vec![link("app_rw", "0x1", true), link("app_rw", "0x2", true)], &writes(), BootTime(105));
        let reign = [link("app_rw", "0x1", true), link("app_rw", "0x2", true), link("app_rw", "0x3", true)];
        assert!(!old.forget_closed(&reign));
        assert_eq!(old.due(BootTime(110), WITHIN), writes());
        assert!(old.forget_closed(&reign[1..]));
        assert_eq!(old.due(BootTime(114), WITHIN), Vec::<String>::new());
        assert_eq!(old.due(BootTime(115), WITHIN), writes());
        assert!(old.forget_closed(&reign[2..]));
        assert!(old.is_empty(), "a connection to the present primary is taken for an old one");
    }

    #[test]
    fn the_next_process_counts_from_its_start() {
        let mut old = OldLinks::default();
        old.add(vec![link("app_rw", "0x1", true)], &writes(), BootTime(100));
        let next = OldLinks::left(&old.ids(), &writes(), BootTime(20));
        assert_eq!(next.due(BootTime(29), WITHIN), Vec::<String>::new());
        assert_eq!(next.due(BootTime(30), WITHIN), writes());
        let others = OldLinks::left(&old.ids(), &["other_rw".to_owned()], BootTime(20));
        assert!(others.is_empty(), "a database is cut that is not led any more");
    }
}
