//! What is to be done with a PgBouncer, by what the store shows. No I/O, no clock.

use pgbaton_api::Baton;
use pgbaton_types::{BootTime, Epoch};

/// A pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The reign that was about to end.
    pub epoch: Epoch,
    /// The asking ([`pgbaton_api::layout::PausingRecord::id`]).
    pub id: u64,
    /// When it ends at the latest.
    pub until: BootTime,
}

/// What is known from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// The databases are paused.
    pub(crate) held: Option<Held>,
    /// The asking that was answered last.
    pub(crate) answered: Option<(Epoch, u64)>,
    /// The reign whose primary is the one that is used.
    pub(crate) followed: Option<Epoch>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Hold the clients.
    Pause {
        /// The reign that is about to end.
        epoch: Epoch,
        /// The asking.
        id: u64,
    },
    /// Let them go on to the server that they had: it was called off.
    GoOn,
    /// Let them go on, whatever there is: they have waited for long enough.
    GiveUp,
    /// There is another primary: lead to it, and let those go on who are held.
    Follow(Epoch),
}

/// Decides. An older reign than the one that is followed changes nothing.
pub(crate) fn next(before: &Before, baton: &Baton, now: BootTime) -> Step {
    // Before everything else: whatever keeps another primary from being followed, nobody waits for it any longer.
    if before.held.is_some_and(|held| now.reached(held.until)) {
        return Step::GiveUp;
    }
    let serves = baton.epoch.filter(|_| baton.primary.is_some());
    if let Some(epoch) = serves
        && before.followed.is_none_or(|followed| epoch > followed)
        && before.held.is_none_or(|held| epoch > held.epoch)
    {
        return Step::Follow(epoch);
    }
    let asked = baton.pausing.filter(|pausing| Some(pausing.epoch) == baton.epoch);
    if let Some(held) = before.held {
        let called_off = baton.epoch == Some(held.epoch) && asked.is_none_or(|asked| asked.id != held.id);
        return if called_off { Step::GoOn } else { Step::Nothing };
    }
    match asked {
        Some(asked)
            if before.answered != Some((asked.epoch, asked.id))
                && before.followed.is_none_or(|followed| asked.epoch >= followed) =>
        {
            Step::Pause { epoch: asked.epoch, id: asked.id }
        }
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use pgbaton_api::ServerAt;
    use pgbaton_api::layout::PausingRecord;

    use super::*;

    const NOW: BootTime = BootTime(1000);

    fn baton(epoch: Option<u64>, primary: bool, pausing: Option<(u64, u64)>) -> Baton {
        let server = ServerAt {
            name: "a".parse().expect("a name"),
            host: "10.0.0.1".to_owned(),
            port: 5432,
            api: None,
            timeline: None,
            lag: None,
            streaming: false,
            tags: serde_json::Map::new(),
        };
        Baton {
            epoch: epoch.map(Epoch),
            primary: primary.then_some(server),
            pausing: pausing.map(|(epoch, id)| PausingRecord { epoch: Epoch(epoch), id }),
            ..Baton::default()
        }
    }

    fn before(held: Option<(u64, u64, u64)>, answered: Option<(u64, u64)>, followed: Option<u64>) -> Before {
        Before {
            held: held.map(|(epoch, id, until)| Held { epoch: Epoch(epoch), id, until: BootTime(until) }),
            answered: answered.map(|(epoch, id)| (Epoch(epoch), id)),
            followed: followed.map(Epoch),
        }
    }

    #[test]
    fn a_new_primary_is_followed_once_and_never_an_older_one() {
        let fresh = before(None, None, None);
        assert_eq!(next(&fresh, &baton(Some(5), false, None), NOW), Step::Nothing);
        assert_eq!(next(&fresh, &baton(Some(5), true, None), NOW), Step::Follow(Epoch(5)));
        let followed = before(None, None, Some(5));
        assert_eq!(next(&followed, &baton(Some(5), true, None), NOW), Step::Nothing);
        assert_eq!(next(&followed, &baton(Some(4), true, None), NOW), Step::Nothing);
        assert_eq!(next(&followed, &baton(Some(6), true, None), NOW), Step::Follow(Epoch(6)));
    }

    #[test]
    fn an_asking_is_met_once_and_only_that_of_this_reign() {
        let followed = before(None, None, Some(5));
        let asked = |id| baton(Some(5), true, Some((5, id)));
        assert_eq!(next(&followed, &asked(7), NOW), Step::Pause { epoch: Epoch(5), id: 7 });
        assert_eq!(next(&before(None, Some((5, 7)), Some(5)), &asked(7), NOW), Step::Nothing);
        assert_eq!(next(&before(None, Some((5, 7)), Some(5)), &asked(8), NOW), Step::Pause { epoch: Epoch(5), id: 8 });
        // What an old holder's record still says is not asked in the next reign.
        assert_eq!(next(&before(None, None, Some(6)), &baton(Some(6), true, Some((5, 7))), NOW), Step::Nothing);
    }

    #[test]
    fn a_pause_ends_with_the_next_primary_when_it_is_called_off_or_when_it_has_lasted_for_too_long() {
        let held = before(Some((5, 7, 2000)), Some((5, 7)), Some(5));
        assert_eq!(next(&held, &baton(Some(5), true, Some((5, 7))), NOW), Step::Nothing);
        assert_eq!(next(&held, &baton(None, false, None), NOW), Step::Nothing, "nobody leads for a while");
        assert_eq!(next(&held, &baton(Some(6), false, None), NOW), Step::Nothing, "the next one is being promoted");
        assert_eq!(next(&held, &baton(Some(6), true, None), NOW), Step::Follow(Epoch(6)));
        assert_eq!(next(&held, &baton(Some(5), true, None), NOW), Step::GoOn);
        assert_eq!(next(&held, &baton(None, false, None), BootTime(2000)), Step::GiveUp);
        assert_eq!(next(&held, &baton(Some(6), true, None), BootTime(2000)), Step::GiveUp, "it could not be followed");
        // A process that was started in the middle knows the pause, but not whom it followed.
        let found = before(Some((5, 7, 2000)), None, None);
        assert_eq!(next(&found, &baton(Some(5), true, Some((5, 7))), NOW), Step::Nothing);
    }
}
