//! A restart that was asked for later. It is kept in memory and shown in the member's record; an agent that ends forgets it, and so
//! does a server that is restarted before.

use std::time::Duration;

use jiff::Timestamp;
use pgbaton_api::{RestartRequest, RoleFilter};
use serde_json::{Map, Value};

/// A restart later than this many loops is given up: whoever asked for it meant that time, not any.
const STALE_LOOPS: f64 = 1.5;

/// The restart that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    request: RestartRequest,
    /// When the postmaster was started that is meant, as the server writes it.
    postmaster_started: Option<String>,
}

/// What decides whether it is time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment<'a> {
    /// Now.
    pub(crate) now: Timestamp,
    /// Time between two ticks of the loop.
    pub(crate) loop_wait: Duration,
    /// When the postmaster was started; none while the server does not say.
    pub(crate) postmaster_started: Option<&'a str>,
    /// The server's role.
    pub(crate) role: RoleFilter,
    /// The server's version, as `server_version_num`.
    pub(crate) version: u32,
    /// A changed parameter waits for a restart.
    pub(crate) pending: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing for so long.
    In(Duration),
    /// The restart.
    Now,
    /// It is dropped, for this reason.
    Never(&'static str),
}

impl Scheduled {
    /// None for a request that is to be done at once.
    pub(crate) fn new(request: RestartRequest, postmaster_started: Option<&str>) -> Option<Self> {
        request.schedule?;
        Some(Self { request, postmaster_started: postmaster_started.map(str::to_owned) })
    }

    /// How long the server may take to start; none: nothing was said about it.
    pub(crate) fn start_within(&self) -> Option<Duration> {
        self.request.filters.timeout_s.map(Duration::from_secs)
    }

    /// As the member's record shows it.
    pub(crate) fn document(&self) -> Map<String, Value> {
        let mut document = self.request.scheduled().unwrap_or_default();
        if let Some(started) = &self.postmaster_started {
            document.insert("postmaster_start_time".to_owned(), started.as_str().into());
        }
        document
    }

    /// Whether it is time.
    pub(crate) fn due(&self, moment: &Moment<'_>) -> Due {
        if let Some((meant, is)) = self.postmaster_started.as_deref().zip(moment.postmaster_started)
            && meant != is
        {
            return Due::Never("the server was restarted since it was asked for");
        }
        let Some(schedule) = self.request.schedule else { return Due::Never("it has no time") };
        let left = schedule.duration_since(moment.now);
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            return Due::In(left);
        }
        if left.unsigned_abs() > moment.loop_wait.mul_f64(STALE_LOOPS).max(Duration::from_secs(1)) {
            return Due::Never("its time has passed");
        }
        if moment.postmaster_started.is_none() {
            return Due::Never("the server does not run");
        }
        if !self.request.filters.allow(moment.role, moment.version, moment.pending) {
            return Due::Never("its conditions are not met");
        }
        Due::Now
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOON: &str = "2027-01-31T12:00:00Z";

    fn scheduled(filters: Value) -> Scheduled {
        let Value::Object(mut body) = filters else { panic!("no map") };
        body.insert("schedule".to_owned(), NOON.into());
        let request = RestartRequest::parse(&body, "2027-01-01T00:00:00Z".parse().unwrap(), false).unwrap();
        Scheduled::new(request, Some("started")).unwrap()
    }

    fn moment(now: &str) -> Moment<'static> {
        Moment {
            now: now.parse().unwrap(),
            loop_wait: Duration::from_secs(2),
            postmaster_started: Some("started"),
            role: RoleFilter::Primary,
            version: 150_003,
            pending: false,
        }
    }

    #[test]
    fn it_is_done_at_its_time_or_not_at_all() {
        let restart = scheduled(json!({}));
        assert_eq!(restart.due(&moment("2027-01-31T11:59:58.5Z")), Due::In(Duration::from_millis(1500)));
        assert_eq!(restart.due(&moment(NOON)), Due::Now);
        assert_eq!(restart.due(&moment("2027-01-31T12:00:03Z")), Due::Now);
        assert_eq!(restart.due(&moment("2027-01-31T12:00:04Z")), Due::Never("its time has passed"));
        let other = Moment { postmaster_started: Some("later"), ..moment("2027-01-31T11:00:00Z") };
        assert_eq!(restart.due(&other), Due::Never("the server was restarted since it was asked for"));
        let silent = Moment { postmaster_started: None, ..moment(NOON) };
        assert_eq!(restart.due(&silent), Due::Never("the server does not run"));
    }

    #[test]
    fn its_conditions_are_those_of_its_time() {
        let cases = [
            (json!({"role": "primary"}), Due::Now),
            (json!({"role": "replica"}), Due::Never("its conditions are not met")),
            (json!({"postgres_version": "15.4"}), Due::Now),
            (json!({"postgres_version": "15.3"}), Due::Never("its conditions are not met")),
            (json!({"restart_pending": true}), Due::Never("its conditions are not met")),
        ];
        for (filters, expected) in cases {
            assert_eq!(scheduled(filters.clone()).due(&moment(NOON)), expected, "{filters}");
        }
        let document = scheduled(json!({"role": "replica", "timeout": "1min"})).document();
        let expected = json!({"schedule": "2027-01-31T12:00:00+00:00", "role": "replica", "timeout": 60,
                              "postmaster_start_time": "started"});
        assert_eq!(Value::Object(document), expected);
    }
}
