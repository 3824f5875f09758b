//! Which members there are, kept beside the data directory: where the store lists no hosts itself, they are asked when it does not know the
//! cluster any more, before anybody makes one or leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::layout::MemberRecord;
use pgbaton_core::observation::Initialize;
use pgbaton_types::{BootTime, MemberName, chain};

use crate::clock;
use crate::connect::Connected;
use crate::context::Context;
use crate::keys::{self, Keys};

/// For how long the store has not shown a member that is not reckoned with any more if it forgets the cluster. Above the time for which a host
/// may be cut off or under repair: whoever has data on an unknown host would find another cluster when he is back.
const GONE_AFTER: Duration = Duration::from_hours(24);

/// The other members with their addresses.
pub(crate) type Members = BTreeMap<MemberName, String>;

/// The members that the store shows; none: it does not know the cluster.
pub(crate) fn shown(context: &Context, keys: &Keys) -> Option<Members> {
    if !matches!(keys::cluster(keys, keys::Own::default(), clock::now(), 0).initialize, Initialize::Done(_)) {
        return None;
    }
    Some(others(context, keys, |_| true))
}

/// The members with data that a store shows which does not know the cluster: who has none yet may come and go.
fn shown_with_data(context: &Context, keys: &Keys) -> Members {
    others(context, keys, |record| keys::facts(record).has_data)
}

fn others(context: &Context, keys: &Keys, wanted: impl Fn(&MemberRecord) -> bool) -> Members {
    let others = keys::records(keys).filter(|(name, record)| *name != context.me && wanted(record));
    others.filter_map(|(name, record)| Some((name, record.api_base()?.to_owned()))).collect()
}

/// Keeps members as soon as the store shows them: the next thing that it does may be to forget them.
pub(crate) async fn keep_new(context: Arc<Context>, connected: Connected) {
    loop {
        context.view.changed.notified().await;
        let keys = context.view.keys();
        add(&context, &connected, shown(&context, &keys).unwrap_or_else(|| shown_with_data(&context, &keys)));
    }
}

/// Keeps these as well.
pub(crate) fn add(context: &Context, connected: &Connected, members: Members) {
    change(context, connected, |known| known.extend(members));
}

/// Keeps those that the store shows, and forgets those that are gone. `absent`: since when it has not shown them.
pub(crate) fn keep(
    context: &Context,
    connected: &Connected,
    shown: Members,
    absent: &mut BTreeMap<MemberName, BootTime>,
) {
    change(context, connected, |known| *known = remembered(std::mem::take(known), shown, absent, clock::now()));
}

fn change(context: &Context, connected: &Connected, change: impl FnOnce(&mut Members)) {
    let kept = context.keep(|kept| {
        change(&mut kept.members);
        connected.knows(&kept.members);
    });
    if let Err(error) = kept {
        tracing::warn!(error = %chain(&error), "which members there are was not kept");
    }
}

fn remembered(
    mut known: Members,
    shown: Members,
    absent: &mut BTreeMap<MemberName, BootTime>,
    now: BootTime,
) -> Members {
    absent.retain(|name, _| !shown.contains_key(name));
    known.retain(|name, _| {
        shown.contains_key(name) || now.since(*absent.entry(name.clone()).or_insert(now)) < GONE_AFTER
    });
    known.extend(shown);
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> Members {
        names.iter().map(|name| (name.parse().unwrap(), format!("http://{name}:8008"))).collect()
    }

    #[test]
    fn who_is_cut_off_from_the_store_is_not_forgotten() {
        let mut absent = BTreeMap::new();
        let hour = Duration::from_hours(1);
        let mut known = members(&["b", "c"]);
        let mut look = |shown: &[&str], hours: u32| {
            known = remembered(known.clone(), members(shown), &mut absent, BootTime(1) + hour * hours);
            known.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(look(&["b"], 0), ["b", "c"]);
        assert_eq!(look(&["b", "d"], 23), ["b", "c", "d"]);
        assert_eq!(look(&["b", "c", "d"], 25), ["b", "c", "d"], "it was there again");
        assert_eq!(look(&["b"], 26), ["b", "c", "d"]);
        assert_eq!(look(&["b"], 50), ["b"]);
    }
}
