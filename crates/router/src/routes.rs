//! Where connections go, by what is known of the cluster. No I/O, no clock.

use std::time::Duration;

use pgbaton_api::{ServerAt, View};
use pgbaton_types::{BootTime, Epoch, MemberName};

use crate::settings::{Mode, ReadOnly, UsePrimary};

/// The tag with the weight of a standby among others: a whole number, 0 for none.
const TAG_WEIGHT: &str = "router_weight";
/// The weight without the tag.
const WEIGHT: u64 = 100;
/// The tag with the place of a member.
const TAG_SITE: &str = "site";

/// Why there is no server for a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// The view is older than the router's lease.
    #[error("the store has not answered for too long")]
    Blind,
    /// The primary is about to stop, in a switchover.
    #[error("the primary is handing over")]
    HandingOver,
    /// Nobody is the primary at the moment.
    #[error("there is no primary at the moment")]
    NoPrimary,
    /// No standby can be used.
    #[error("there is no standby that may be used at the moment")]
    NoStandby,
}

/// A server of a reign: what a session is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bound {
    /// The member.
    pub member: MemberName,
    /// Where it is.
    pub address: String,
    /// The reign in which it is the primary; none: it is used as a standby.
    pub reign: Option<Epoch>,
}

/// Views, one after the other, and what they mean.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    view: View,
    highest: Option<Epoch>,
    lease: Duration,
}

impl Routes {
    /// Nothing is known. `lease`: a view that is older says nothing.
    pub fn new(lease: Duration) -> Self {
        Self { lease, ..Self::default() }
    }

    /// Takes a newer view. A reign below the highest seen is none: the store has gone back, or an old copy of it answers.
    pub fn take(&mut self, mut view: View) {
        if view.baton.epoch < self.highest {
            view.baton.primary = None;
            view.baton.leader = None;
        }
        self.highest = self.highest.max(view.baton.epoch);
        self.view = view;
    }

    /// The view as it is used.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The highest epoch seen.
    pub fn highest(&self) -> Option<Epoch> {
        self.highest
    }

    /// Until when the view holds.
    pub fn holds_until(&self) -> BootTime {
        self.view.as_of.map_or(BootTime::default(), |as_of| as_of + self.lease)
    }

    /// Where a new connection goes. `load`: how many sessions a server has.
    pub fn route(&self, mode: &Mode, now: BootTime, load: impl Fn(&MemberName) -> usize) -> Result<Bound, NoRoute> {
        if now.reached(self.holds_until()) {
            return Err(NoRoute::Blind);
        }
        match mode {
            // Who is being authenticated when the server stops gets an error: better not to begin.
            Mode::ReadWrite if self.view.baton.handing_over => Err(NoRoute::HandingOver),
            Mode::ReadWrite => self.primary().ok_or(NoRoute::NoPrimary),
            Mode::ReadOnly(wanted) => self.reader(wanted, load).ok_or(NoRoute::NoStandby),
        }
    }

    /// All servers that connections of a port may have gone to: for a cancel request, whose key says nothing of the server.
    pub fn all(&self, mode: &Mode) -> Vec<String> {
        let baton = &self.view.baton;
        let standbys = baton.standbys.iter().filter(|_| matches!(mode, Mode::ReadOnly(_)));
        baton.primary.iter().chain(standbys).map(ServerAt::address).collect()
    }

    /// Whether a session may go on.
    pub fn keeps(&self, bound: &Bound, mode: &Mode, now: BootTime) -> bool {
        if now.reached(self.holds_until()) {
            return false;
        }
        let baton = &self.view.baton;
        match (mode, bound.reign) {
            // A primary that does not answer for a moment is still the one of its reign.
            (_, Some(reign)) => baton.epoch == Some(reign) && baton.leader.as_ref() == Some(&bound.member),
            // A standby that was promoted.
            (Mode::ReadOnly(wanted), None) => {
                wanted.primary != UsePrimary::Never || baton.leader.as_ref() != Some(&bound.member)
            }
            (Mode::ReadWrite, None) => false,
        }
    }

    fn primary(&self) -> Option<Bound> {
        let baton = &self.view.baton;
        baton.primary.as_ref().map(|server| Bound {
            member: server.name.clone(),
            address: server.address(),
            reign: baton.epoch,
        })
    }

    fn reader(&self, wanted: &ReadOnly, load: impl Fn(&MemberName) -> usize) -> Option<Bound> {
        // Whoever holds the lease is about to be promoted, which would end the session.
        let stays = |server: &ServerAt| {
            wanted.primary != UsePrimary::Never || self.view.baton.leader != Some(server.name.clone())
        };
        let standbys = self.view.baton.standbys.iter().filter(|server| usable(server, wanted) && stays(server));
        let primary = self.view.baton.primary.iter().filter(|_| wanted.primary == UsePrimary::Always);
        let all: Vec<&ServerAt> = standbys.chain(primary).filter(|server| weight(server) > 0).collect();
        let here = |server: &&ServerAt| {
            wanted.site.is_some() && server.tags.get(TAG_SITE).and_then(|site| site.as_str()) == wanted.site.as_deref()
        };
        // Sessions per weight, in the order of names where that is the same.
        let busy = |server: &&ServerAt| (load(&server.name) as u64 + 1) * WEIGHT * WEIGHT / weight(server);
        let near = all.iter().copied().filter(here).min_by_key(busy);
        let chosen = near.or_else(|| all.iter().copied().min_by_key(busy));
        let is_primary = |server: &ServerAt| self.view.baton.primary.as_ref().is_some_and(|at| at.name == server.name);
        match chosen {
            Some(server) if !is_primary(server) => {
                Some(Bound { member: server.name.clone(), address: server.address(), reign: None })
            }
            Some(_) => self.primary(),
            None if wanted.primary == UsePrimary::Last => self.primary(),
            None => None,
        }
    }
}

fn usable(server: &ServerAt, wanted: &ReadOnly) -> bool {
    let near = wanted.lag_max.is_none_or(|most| server.lag.is_some_and(|lag| lag <= most));
    near && !server.has_tag("noloadbalance")
}

fn weight(server: &ServerAt) -> u64 {
    let tag = server.tags.get(TAG_WEIGHT);
    tag.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())).unwrap_or(WEIGHT)
}

#[cfg(test)]
mod tests {
    use pgbaton_api::Baton;

    use super::*;

    fn server(name: &str, port: u16, lag: Option<u64>) -> ServerAt {
        ServerAt {
            name: name.parse().unwrap(),
            host: "10.0.0.1".to_owned(),
            port,
            api: None,
            timeline: None,
            lag,
            streaming: true,
            tags: serde_json::Map::new(),
        }
    }

    fn view(epoch: Option<u64>, at: u64) -> View {
        let primary = epoch.map(|_| server("a", 1, Some(0)));
        let leader = primary.as_ref().map(|server| server.name.clone());
        let standbys = vec![server("b", 2, Some(10)), server("c", 3, Some(1000))];
        let baton =
            Baton { scope: "demo".to_owned(), epoch: epoch.map(Epoch), leader, primary, standbys, ..Baton::default() };
        View { baton, as_of: Some(BootTime(at)), ..View::default() }
    }

    fn routes(view: View) -> Routes {
        let mut routes = Routes::new(Duration::from_nanos(100));
        routes.take(view);
        routes
    }

    fn to(routes: &Routes, mode: &Mode, now: u64) -> Result<String, NoRoute> {
        routes.route(mode, BootTime(now), |_| 0).map(|bound| bound.member.to_string())
    }

    fn reading(change: impl FnOnce(&mut ReadOnly)) -> Mode {
        let mut wanted = ReadOnly::default();
        change(&mut wanted);
        Mode::ReadOnly(wanted)
    }

    #[test]
    fn nobody_is_sent_anywhere_by_an_old_view() {
        let routes = routes(view(Some(5), 1000));
        assert_eq!(to(&routes, &Mode::ReadWrite, 1099), Ok("a".to_owned()));
        assert_eq!(to(&routes, &Mode::ReadWrite, 1100), Err(NoRoute::Blind));
        assert_eq!(to(&Routes::new(Duration::from_secs(9)), &Mode::ReadWrite, 0), Err(NoRoute::Blind));
    }

    #[test]
    fn nobody_begins_on_a_primary_that_hands_over() {
        let mut seen = view(Some(5), 1000);
        seen.baton.handing_over = true;
        assert_eq!(to(&routes(seen), &Mode::ReadWrite, 1001), Err(NoRoute::HandingOver));
    }

    #[test]
    fn a_reign_below_the_highest_is_none() {
        let mut routes = routes(view(Some(5), 1000));
        routes.take(view(Some(4), 1001));
        assert_eq!(to(&routes, &Mode::ReadWrite, 1002), Err(NoRoute::NoPrimary));
        routes.take(view(None, 1002));
        assert_eq!(to(&routes, &Mode::ReadWrite, 1003), Err(NoRoute::NoPrimary));
        routes.take(view(Some(6), 1003));
        assert_eq!(to(&routes, &Mode::ReadWrite, 1004), Ok("a".to_owned()));
    }

    #[test]
    fn sessions_end_with_the_reign_and_not_when_its_primary_is_silent_for_a_moment() {
        let mut routes = routes(view(Some(5), 1000));
        let bound = routes.route(&Mode::ReadWrite, BootTime(1001), |_| 0).unwrap();
        let mut silent = view(Some(5), 1002);
        silent.baton.primary = None;
        routes.take(silent);
        assert!(routes.keeps(&bound, &Mode::ReadWrite, BootTime(1003)));
        assert!(!routes.keeps(&bound, &Mode::ReadWrite, BootTime(1102)), "the view is too old");
        routes.take(view(Some(6), 1003));
        assert!(!routes.keeps(&bound, &Mode::ReadWrite, BootTime(1004)));
        routes.take(view(None, 1004));
        assert!(!routes.keeps(&bound, &Mode::ReadWrite, BootTime(1005)));
    }

    #[test]
    fn readers_do_not_begin_where_they_would_end_at_once() {
        let mut seen = view(Some(5), 1000);
        seen.baton.primary = None;
        seen.baton.leader = Some("b".parse().unwrap());
        let of = |change: fn(&mut ReadOnly)| {
            let (routes, mode) = (routes(seen.clone()), reading(change));
            let bound = routes.route(&mode, BootTime(1001), |_| 0).unwrap();
            assert!(routes.keeps(&bound, &mode, BootTime(1001)));
            bound.member.to_string()
        };
        assert_eq!(of(|_| {}), "c", "b is about to be promoted");
        assert_eq!(of(|wanted| wanted.primary = UsePrimary::Last), "b");
    }

    #[test]
    fn readers_go_to_standbys_by_lag_site_weight_and_load() {
        let mut seen = view(Some(5), 1000);
        let near = |seen: &View, change: fn(&mut ReadOnly)| to(&routes(seen.clone()), &reading(change), 1001);
        assert_eq!(near(&seen, |_| {}), Ok("b".to_owned()));
        assert_eq!(near(&seen, |wanted| wanted.lag_max = Some(9)), Err(NoRoute::NoStandby));
        let last = |wanted: &mut ReadOnly| (wanted.lag_max, wanted.primary) = (Some(9), UsePrimary::Last);
        assert_eq!(near(&seen, last), Ok("a".to_owned()));
        seen.baton.standbys[1].tags.insert("site".to_owned(), "far".into());
        assert_eq!(near(&seen, |wanted| wanted.site = Some("far".to_owned())), Ok("c".to_owned()));
        seen.baton.standbys[0].tags.insert("router_weight".to_owned(), 50.into());
        assert_eq!(near(&seen, |_| {}), Ok("c".to_owned()));
        seen.baton.standbys[1].tags.insert("noloadbalance".to_owned(), true.into());
        assert_eq!(near(&seen, |_| {}), Ok("b".to_owned()));
        let busy = routes(view(Some(5), 1000))
            .route(&reading(|_| {}), BootTime(1001), |name| usize::from(name.as_str() == "b"));
        assert_eq!(busy.unwrap().member.as_str(), "c");
    }

    #[test]
    fn a_reader_leaves_a_standby_that_was_promoted_unless_the_primary_may_be_used() {
        let bound = Bound { member: "a".parse().unwrap(), address: "10.0.0.1:1".to_owned(), reign: None };
        let routes = routes(view(Some(5), 1000));
        assert!(!routes.keeps(&bound, &reading(|_| {}), BootTime(1001)));
        assert!(routes.keeps(&bound, &reading(|wanted| wanted.primary = UsePrimary::Last), BootTime(1001)));
    }
}
