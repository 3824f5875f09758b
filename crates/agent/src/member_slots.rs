//! Which members' slots a holder keeps. A member that is away finds its slot, and so its WAL, for `member_slots_ttl`; then it counts as gone
//! for good, and its slot would only fill the disk. Slots that never were a member's are not touched.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_types::{BootTime, Epoch};

/// When each member's slot was last seen to be a member's, in this reign.
#[derive(Debug, Default)]
pub(crate) struct MemberSlots {
    reign: Option<Epoch>,
    seen: BTreeMap<String, BootTime>,
}

impl MemberSlots {
    /// The slots of the members that there are now. A new reign begins with those that the last holder `published`, as if they
    /// had just been seen.
    pub(crate) fn refresh(
        &mut self,
        epoch: Epoch,
        now: BootTime,
        members: impl Iterator<Item = String>,
        published: impl FnOnce() -> Vec<String>,
    ) {
        if self.reign != Some(epoch) {
            self.reign = Some(epoch);
            self.seen = published().into_iter().map(|slot| (slot, now)).collect();
        }
        self.seen.extend(members.map(|slot| (slot, now)));
    }

    /// Slots that are kept, in order.
    pub(crate) fn kept(&self, now: BootTime, ttl: Duration) -> Vec<String> {
        self.seen.iter().filter(|(_, seen)| !is_over(**seen, now, ttl)).map(|(slot, _)| slot.clone()).collect()
    }

    /// Slots to drop: of members that have been away for too long.
    pub(crate) fn over(&self, now: BootTime, ttl: Duration) -> Vec<String> {
        self.seen.iter().filter(|(_, seen)| is_over(**seen, now, ttl)).map(|(slot, _)| slot.clone()).collect()
    }

    /// That slot is not there any more.
    pub(crate) fn forget(&mut self, slot: &str) {
        self.seen.remove(slot);
    }
}

/// With a time of zero it is over as soon as the member is gone.
fn is_over(seen: BootTime, now: BootTime, ttl: Duration) -> bool {
    now > seen && now.since(seen) >= ttl
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_nanos(100);

    fn names(text: &str) -> impl Iterator<Item = String> + '_ {
        text.split_whitespace().map(str::to_owned)
    }

    #[test]
    fn a_member_that_is_away_keeps_its_slot_for_its_time() {
        let mut slots = MemberSlots::default();
        slots.refresh(Epoch(1), BootTime(10), names("a b c"), Vec::new);
        slots.refresh(Epoch(1), BootTime(50), names("a b"), || panic!("the reign is the same"));
        assert_eq!(slots.kept(BootTime(109), TTL), ["a", "b", "c"]);
        assert_eq!(slots.kept(BootTime(110), TTL), ["a", "b"]);
        assert_eq!(slots.over(BootTime(110), TTL), ["c"]);
        slots.forget("c");
        assert_eq!(slots.over(BootTime(110), TTL), Vec::<String>::new());
    }

    #[test]
    fn a_new_reign_begins_with_what_was_published() {
        let mut slots = MemberSlots::default();
        slots.refresh(Epoch(1), BootTime(10), names("a x"), Vec::new);
        slots.refresh(Epoch(3), BootTime(500), names("a"), || names("a b").collect());
        assert_eq!(slots.kept(BootTime(500), TTL), ["a", "b"]);
        assert_eq!(slots.over(BootTime(600), TTL), ["a", "b"]);
    }

    #[test]
    fn without_a_time_a_slot_goes_with_its_member() {
        let mut slots = MemberSlots::default();
        slots.refresh(Epoch(1), BootTime(10), names("a b"), Vec::new);
        assert_eq!(slots.over(BootTime(10), Duration::ZERO), Vec::<String>::new());
        slots.refresh(Epoch(1), BootTime(11), names("a"), Vec::new);
        assert_eq!(slots.over(BootTime(11), Duration::ZERO), ["b"]);
    }
}
