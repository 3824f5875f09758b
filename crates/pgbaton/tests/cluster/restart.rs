//! Restarts at an operator's word: at once, at a time, under conditions; and what waits for one.

use std::time::Duration;

use jiff::Timestamp;
use pgbaton_testkit::cluster::{Cluster, Options};
use serde_json::{Value, json};

use super::{LIMIT, prepared, value};

/// The only member.
const MEMBER: usize = 0;

#[test]
fn restarts_wait_for_their_time_and_what_waited_for_one_is_gone_after_it() {
    let mut cluster = prepared(Options { members: 1, ..super::options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
        .awaiting("the configuration in the store", LIMIT, || {
            let answer = cluster.rest(MEMBER, "GET", "/config", "", LIMIT)?;
            Ok(if answer.status == 200 { Ok(()) } else { Err(answer.body) })
        })
        .unwrap();

    a_change_that_waits_for_a_restart(&cluster);
    a_restart_that_waits(&cluster);
    one_whose_conditions_are_not_met(&cluster);
    one_that_is_done(&cluster);
}

fn a_change_that_waits_for_a_restart(cluster: &Cluster) {
    let change = json!({"postgresql": {"parameters": {"superuser_reserved_connections": 5}}});
    assert_eq!(ask(cluster, "PATCH", "/config", &change), (200, None));
    shown(cluster, "a change that waits", |member| member["pending_restart"] == true);
    assert_eq!(ask(cluster, "POST", "/restart", &json!({"restart_pending": true})).0, 200);
    shown(cluster, "no change that waits", |member| member["pending_restart"].is_null());
    let status = cluster.rest(MEMBER, "GET", "/patroni", "", LIMIT).unwrap().json();
    assert_eq!(status["pending_restart"], Value::Null, "{status}");
    assert_eq!(value(cluster, MEMBER, "SHOW superuser_reserved_connections"), "5");
    let refused = ask(cluster, "POST", "/restart", &json!({"restart_pending": true}));
    assert_eq!(refused, (503, Some("restart conditions are not satisfied".to_owned())));
}

fn a_restart_that_waits(cluster: &Cluster) {
    let later = json!({"schedule": after(3600), "postgres_version": "99.0"});
    assert_eq!(ask(cluster, "POST", "/restart", &later), (202, Some("Restart scheduled".to_owned())));
    let another = (409, Some("Another restart is already scheduled".to_owned()));
    assert_eq!(ask(cluster, "POST", "/restart", &later), another);
    shown(cluster, "the restart that waits", |member| {
        let waiting = &member["scheduled_restart"];
        waiting["schedule"].is_string() && waiting["postgres_version"] == "99.0"
    });
    let status = cluster.rest(MEMBER, "GET", "/patroni", "", LIMIT).unwrap().json();
    assert!(status["scheduled_restart"]["schedule"].is_string(), "{status}");
    assert!(status["scheduled_restart"]["postmaster_start_time"].is_null(), "{status}");
    let deleted = ask(cluster, "DELETE", "/restart", &Value::Null);
    assert_eq!(deleted, (200, Some("scheduled restart deleted".to_owned())));
    let none = ask(cluster, "DELETE", "/restart", &Value::Null);
    assert_eq!(none, (404, Some("no restarts are scheduled".to_owned())));
    shown(cluster, "no restart that waits", |member| member["scheduled_restart"].is_null());
}

fn one_whose_conditions_are_not_met(cluster: &Cluster) {
    let before = started(cluster);
    let soon = Timestamp::now() + Duration::from_secs(2);
    let request = json!({"schedule": soon.to_string(), "role": "replica"});
    assert_eq!(ask(cluster, "POST", "/restart", &request).0, 202);
    cluster
        .awaiting("the time of the restart", LIMIT, || {
            let status = cluster.rest(MEMBER, "GET", "/patroni", "", LIMIT)?.json();
            let over = Timestamp::now() > soon && status["scheduled_restart"].is_null();
            Ok(if over { Ok(()) } else { Err(status.to_string()) })
        })
        .unwrap();
    shown(cluster, "the restart dropped", |member| member["scheduled_restart"].is_null());
    assert_eq!(started(cluster), before, "a primary was restarted that was none of the replicas");
}

fn one_that_is_done(cluster: &Cluster) {
    let before = started(cluster);
    assert_eq!(ask(cluster, "POST", "/restart", &json!({"schedule": after(2), "role": "primary"})).0, 202);
    cluster
        .awaiting("a restarted server", LIMIT, || {
            let status = cluster.rest(MEMBER, "GET", "/patroni", "", LIMIT)?.json();
            let done = status["postmaster_start_time"].as_str().is_some_and(|started| started != before)
                && status["scheduled_restart"].is_null();
            Ok(if done { Ok(()) } else { Err(status.to_string()) })
        })
        .unwrap();
}

/// A time so many seconds from now.
fn after(seconds: u64) -> String {
    (Timestamp::now() + Duration::from_secs(seconds)).to_string()
}

/// When the server was started.
fn started(cluster: &Cluster) -> String {
    let status = cluster.rest(MEMBER, "GET", "/patroni", "", LIMIT).unwrap().json();
    status["postmaster_start_time"].as_str().unwrap().to_owned()
}

/// The code of an answer, and its text unless it is a document.
fn ask(cluster: &Cluster, method: &str, path: &str, body: &Value) -> (u16, Option<String>) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = cluster.rest(MEMBER, method, path, &body, LIMIT).unwrap();
    let text = Some(answer.body.trim().to_owned()).filter(|text| !text.starts_with('{'));
    (answer.status, text)
}

/// Waits until `GET /cluster` shows the member so.
fn shown(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) {
    cluster
        .awaiting(what, LIMIT, || {
            let document = cluster.rest(MEMBER, "GET", "/cluster", "", LIMIT)?.json();
            let member = &document["members"][0];
            Ok(if wanted(member) { Ok(()) } else { Err(member.to_string()) })
        })
        .unwrap();
}
