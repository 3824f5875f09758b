//! What has happened between two views. Pure: no clock, no I/O.

use std::collections::BTreeMap;

use pgbaton_api::{Baton, ServerAt, View};
use pgbaton_types::{Epoch, MemberName, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::EventName;

/// The tag with a member's number, for scripts that were made for repmgr's.
const TAG_NODE_ID: &str = "node_id";
/// Members that are remembered; beyond, those that have gone are forgotten.
const MEMBERS_MAX: usize = 256;

/// The cluster as it was seen last, as far as it matters for what comes next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// PostgreSQL's system identifier, if it is known.
    #[serde(default)]
    system_id: Option<String>,
    /// The highest epoch.
    epoch: Option<Epoch>,
    /// The revision of the store in that epoch.
    revision: Revision,
    /// The last primary, also when there is none now.
    primary: Option<MemberName>,
    /// It was there in the last view.
    primary_runs: bool,
    /// That it is gone was told.
    loss_told: bool,
    /// A switchover is under way.
    planned: bool,
    /// The last change of the primary was one.
    was_planned: bool,
    /// Everybody who was ever seen.
    members: BTreeMap<MemberName, Member>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Member {
    /// It was there in the last view with a primary.
    runs: bool,
    /// It was the primary and is not a standby yet.
    former: bool,
    /// Whom it was seen to stream from.
    follows: Option<MemberName>,
    /// Its tag.
    node_id: Option<String>,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) event: EventName,
    /// To whom.
    pub(crate) member: MemberName,
    /// In a promotion, the primary before.
    pub(crate) former: Option<MemberName>,
    pub(crate) details: String,
}

impl Change {
    fn of(event: EventName, member: &MemberName, details: String) -> Self {
        Self { event, member: member.clone(), former: None, details }
    }
}

impl Seen {
    /// What a view brings, and what is to be remembered then; none: it is older than what was seen.
    pub(crate) fn next(&self, view: &View) -> Option<(Self, Vec<Change>)> {
        let system_id = view.baton.system_id.clone().or(self.system_id.clone());
        let epoch = view.baton.epoch.max(self.epoch);
        let older = view.baton.epoch.is_some_and(|epoch| Some(epoch) < self.epoch);
        if older || epoch == self.epoch && view.revision < self.revision {
            // A cluster that was made anew goes on from nothing that was before.
            let anew = self.system_id.is_some() && self.system_id != system_id;
            return anew.then(|| Self { system_id, ..Self::default() }).and_then(|anew| anew.next(view));
        }
        let mut seen = Self { system_id, epoch, revision: view.revision, ..self.clone() };
        let mut changes = Vec::new();
        seen.take_primary(&view.baton, &mut changes);
        if let Some(primary) = &view.baton.primary {
            seen.take_standbys(&view.baton, primary, &mut changes);
        }
        seen.forget_some();
        Some((seen, changes))
    }

    /// The highest epoch.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether the two say the same, but for when.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        *self == Self { revision: self.revision, ..other.clone() }
    }

    /// What a script that was made for repmgr knows a member by.
    pub(crate) fn node(&self, member: &MemberName) -> String {
        let tag = self.members.get(member).and_then(|member| member.node_id.clone());
        tag.unwrap_or_else(|| member.as_str().to_owned())
    }

    /// The last primary.
    pub(crate) fn primary(&self) -> Option<&MemberName> {
        self.primary.as_ref()
    }

    fn take_primary(&mut self, baton: &Baton, changes: &mut Vec<Change>) {
        let asked = baton.handed_over || self.primary_runs && baton.handing_over;
        match (&baton.primary, self.primary.clone()) {
            (Some(now), None) => {
                changes.push(Change::of(
                    EventName::PrimaryRegister,
                    &now.name,
                    format!("{} is the primary{}", now.name, whence(now)),
                ));
            }
            (Some(now), Some(before)) if now.name == before => {
                if self.loss_told {
                    let details = format!("primary {before} takes writes again{}", whence(now));
                    changes.push(Change::of(EventName::RepmgrdLocalReconnect, &before, details));
                }
                self.planned = asked;
            }
            (Some(now), Some(before)) => {
                self.was_planned = self.planned || asked;
                changes.extend(promotion(now, &before, self.was_planned));
                self.planned = false;
                let former = self.members.entry(before).or_default();
                (former.former, former.runs, former.follows) = (true, false, None);
            }
            (None, Some(before)) => {
                // The successor has the lease, and the request is gone: it is about to take writes.
                let succeeded = baton.leader.as_ref().is_some_and(|leader| *leader != before);
                self.planned = asked || self.planned && (baton.handing_over || succeeded);
                if !self.planned && !self.loss_told {
                    let details = format!("primary {before} takes no writes any more");
                    changes.push(Change::of(EventName::RepmgrdLocalDisconnect, &before, details));
                    self.loss_told = true;
                }
            }
            (None, None) => {}
        }
        self.primary_runs = baton.primary.is_some();
        if let Some(now) = &baton.primary {
            self.loss_told = false;
            self.primary = Some(now.name.clone());
            let member = Member { runs: true, node_id: node_id(now), ..Member::default() };
            self.members.insert(now.name.clone(), member);
        }
    }

    fn take_standbys(&mut self, baton: &Baton, primary: &ServerAt, changes: &mut Vec<Change>) {
        for standby in baton.standbys.iter().filter(|standby| standby.name != primary.name) {
            let name = &standby.name;
            let follows = standby.streaming && standby.timeline == primary.timeline;
            let Some(member) = self.members.get_mut(name) else {
                let details = format!("standby {name} of primary {}", primary.name);
                changes.push(Change::of(EventName::StandbyRegister, name, details));
                let follows = follows.then(|| primary.name.clone());
                self.members
                    .insert(name.clone(), Member { runs: true, former: false, follows, node_id: node_id(standby) });
                continue;
            };
            member.node_id = node_id(standby);
            if !member.runs && !member.former {
                let details = format!("standby {name} runs again");
                changes.push(Change::of(EventName::ChildNodeReconnect, name, details));
            }
            member.runs = true;
            if follows && member.follows.as_ref() != Some(&primary.name) {
                let event = match (member.former, self.was_planned) {
                    (true, _) => EventName::NodeRejoin,
                    (false, true) => EventName::StandbyFollow,
                    (false, false) => EventName::RepmgrdFailoverFollow,
                };
                let details = format!("standby {name} follows primary {}{}", primary.name, whence(primary));
                changes.push(Change::of(event, name, details));
                member.follows = Some(primary.name.clone());
                member.former = false;
            }
        }
        // Who holds the lease and takes no writes yet is no standby any more, and not gone.
        let there = |name: &MemberName| {
            *name == primary.name
                || baton.leader.as_ref() == Some(name)
                || baton.standbys.iter().any(|one| one.name == *name)
        };
        for (name, member) in self.members.iter_mut().filter(|(name, member)| member.runs && !there(name)) {
            member.runs = false;
            if !member.former {
                let details = format!("standby {name} does not run any more");
                changes.push(Change::of(EventName::ChildNodeDisconnect, name, details));
            }
        }
    }

    fn forget_some(&mut self) {
        let mut surplus = self.members.len().saturating_sub(MEMBERS_MAX);
        self.members.retain(|_, member| {
            let kept = member.runs || surplus == 0;
            surplus -= usize::from(!kept);
            kept
        });
    }
}

/// A promotion is told twice, as repmgr does: that it was one, and how it came about.
fn promotion(now: &ServerAt, before: &MemberName, planned: bool) -> [Change; 2] {
    let name = &now.name;
    let promoted = format!("standby {name} was promoted to primary{}", whence(now));
    let (event, details) = if planned {
        let details = format!("standby {name} was promoted to primary, primary {before} demoted to standby");
        (EventName::StandbySwitchover, details)
    } else {
        let details = format!("standby {name} was promoted to primary, old primary {before} marked as failed");
        (EventName::RepmgrdFailoverPromote, details)
    };
    [(EventName::StandbyPromote, promoted), (event, details)]
        .map(|(event, details)| Change { former: Some(before.clone()), ..Change::of(event, name, details) })
}

fn whence(server: &ServerAt) -> String {
    server.timeline.map(|timeline| format!(" on timeline {}", timeline.0)).unwrap_or_default()
}

fn node_id(server: &ServerAt) -> Option<String> {
    match server.tags.get(TAG_NODE_ID)? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{server, view};

    /// What each of some views brings, as `event member`.
    fn told(views: &[View]) -> Vec<Vec<String>> {
        let mut seen = Seen::default();
        let mut tell = |view: &View| {
            let Some((next, changes)) = seen.next(view) else { return vec!["older".to_owned()] };
            // What goes over the disk comes back.
            let text = serde_json::to_string(&next).unwrap();
            seen = serde_json::from_str(&text).unwrap();
            assert_eq!(seen, next);
            changes.iter().map(|change| format!("{} {}", change.event, change.member)).collect()
        };
        views.iter().map(&mut tell).collect()
    }

    fn healthy(epoch: u64, revision: u64, timeline: u32, names: [&str; 3]) -> View {
        let [a, b, c] = names;
        view(
            epoch,
            revision,
            Some(server(a, timeline, false)),
            vec![server(b, timeline, true), server(c, timeline, true)],
        )
    }

    fn with(mut view: View, change: impl FnOnce(&mut Baton)) -> View {
        change(&mut view.baton);
        view
    }

    #[test]
    fn a_switchover_is_told_as_one_and_who_follows() {
        let standbys = || vec![server("b", 1, true), server("c", 1, true)];
        let views = [
            healthy(5, 10, 1, ["a", "b", "c"]),
            with(healthy(5, 11, 1, ["a", "b", "c"]), |baton| baton.handing_over = true),
            with(view(5, 12, None, standbys()), |baton| baton.handing_over = true),
            with(view(0, 13, None, standbys()), |baton| baton.handed_over = true),
            with(view(14, 14, None, vec![server("c", 1, false)]), |baton| baton.leader = "b".parse().ok()),
            view(14, 15, Some(server("b", 2, false)), vec![server("c", 1, true)]),
            view(14, 16, Some(server("b", 2, false)), vec![server("a", 1, false), server("c", 2, true)]),
            healthy(14, 17, 2, ["b", "a", "c"]),
            healthy(14, 18, 2, ["b", "a", "c"]),
        ];
        let told = told(&views);
        assert_eq!(told[0], ["primary_register a", "standby_register b", "standby_register c"]);
        assert_eq!(told[1..5], [const { Vec::<String>::new() }; 4]);
        assert_eq!(told[5], ["standby_promote b", "standby_switchover b"]);
        assert_eq!(told[6..], [vec!["standby_follow c".to_owned()], vec!["node_rejoin a".to_owned()], vec![]]);
    }

    #[test]
    fn a_failover_is_told_as_one_and_so_is_a_manual_one_of_a_dead_primary() {
        for manual in [false, true] {
            let views = [
                healthy(5, 10, 1, ["a", "b", "c"]),
                view(0, 12, None, vec![server("b", 1, false), server("c", 1, false)]),
                with(view(0, 13, None, vec![server("b", 1, false), server("c", 1, false)]), |baton| {
                    baton.handing_over = manual;
                }),
                view(14, 15, Some(server("b", 2, false)), vec![server("c", 2, true)]),
                view(14, 16, Some(server("b", 2, false)), vec![server("a", 1, false), server("c", 2, true)]),
                healthy(14, 17, 2, ["b", "a", "c"]),
            ];
            let told = told(&views);
            assert_eq!(told[1..3], [vec!["repmgrd_local_disconnect a".to_owned()], vec![]]);
            assert_eq!(told[3], ["standby_promote b", "repmgrd_failover_promote b", "repmgrd_failover_follow c"]);
            assert_eq!(told[4..], [vec![], vec!["node_rejoin a".to_owned()]]);
        }
    }

    #[test]
    fn who_was_away_is_told_the_difference() {
        let told = told(&[healthy(5, 10, 1, ["a", "b", "c"]), healthy(14, 90, 2, ["b", "a", "d"])]);
        let wanted = [
            "standby_promote b",
            "repmgrd_failover_promote b",
            "node_rejoin a",
            "standby_register d",
            "child_node_disconnect c",
        ];
        assert_eq!(told[1], wanted);
    }

    #[test]
    fn a_primary_that_comes_back_and_standbys_that_come_and_go() {
        let views = [
            healthy(5, 10, 1, ["a", "b", "c"]),
            view(5, 11, Some(server("a", 1, false)), vec![server("b", 1, true)]),
            healthy(5, 12, 1, ["a", "b", "c"]),
            view(0, 13, None, vec![server("b", 1, false)]),
            healthy(14, 15, 1, ["a", "b", "c"]),
        ];
        let told = told(&views);
        assert_eq!(told[1..3], [["child_node_disconnect c"], ["child_node_reconnect c"]]);
        assert_eq!(told[3..], [["repmgrd_local_disconnect a"], ["repmgrd_local_reconnect a"]]);
    }

    #[test]
    fn a_switchover_that_is_called_off_is_none_and_what_is_lost_then_is_said() {
        let asked = |revision| with(healthy(5, revision, 1, ["a", "b", "c"]), |baton| baton.handing_over = true);
        let stopped = |revision| view(5, revision, None, vec![server("b", 1, true), server("c", 1, true)]);
        let told = told(&[
            healthy(5, 10, 1, ["a", "b", "c"]),
            asked(11),
            with(stopped(12), |baton| baton.handing_over = true),
            healthy(5, 13, 1, ["a", "b", "c"]),
            asked(14),
            stopped(15),
        ]);
        assert_eq!(told[1..5], [const { Vec::<String>::new() }; 4]);
        assert_eq!(told[5], ["repmgrd_local_disconnect a"]);
    }

    #[test]
    fn what_is_older_changes_nothing() {
        let told = told(&[
            healthy(14, 20, 2, ["b", "a", "c"]),
            healthy(5, 30, 1, ["a", "b", "c"]),
            healthy(14, 19, 2, ["a", "b", "c"]),
            view(0, 18, None, Vec::new()),
        ]);
        assert_eq!(told[1..], [["older"], ["older"], ["older"]]);
    }

    #[test]
    fn a_cluster_that_was_made_anew_begins_anew() {
        let of = |mut view: View, id: &str| {
            view.baton.system_id = Some(id.to_owned());
            view
        };
        let before = of(healthy(900, 900, 7, ["a", "b", "c"]), "1");
        let after = of(healthy(6, 30, 1, ["a", "b", "c"]), "2");
        let first = told(std::slice::from_ref(&after));
        assert_eq!(told(&[before.clone(), after.clone()])[1], first[0]);
        // Not known for a moment is not another one.
        assert_eq!(told(&[before.clone(), healthy(6, 30, 1, ["a", "b", "c"])])[1], ["older"]);
    }

    #[test]
    fn a_member_has_the_number_of_its_tag() {
        let mut primary = server("a", 1, false);
        primary.tags.insert("node_id".to_owned(), 7.into());
        let (seen, _) = Seen::default().next(&view(1, 1, Some(primary), Vec::new())).unwrap();
        assert_eq!(seen.node(&"a".parse().unwrap()), "7");
        assert_eq!(seen.node(&"b".parse().unwrap()), "b");
    }
}
