//! What the guard refuses, how it ends, and what it does about the agent's exit codes.

use crate::host::{Host, SECOND, await_end, await_that, send};
use pgbaton_sys::Signal;
use pgbaton_sys::clock::boottime;

#[test]
fn a_primary_needs_a_lease_and_is_not_disarmed() {
    let host = Host::begin();
    host.pids();
    let refused = |line: &str, why: &str| {
        let error = host.tell(line).unwrap_err();
        assert!(error.contains(why), "{line}: {error}");
    };
    refused("start primary", "no lease deadline");
    refused("signal 2", "no postmaster");
    refused("kill", "no postmaster");
    refused(&format!("extend 5 {}", boottime() - 1), "has passed");
    refused(&format!("extend 5 {}", boottime() + 3700 * SECOND), "more than an hour");
    let deadline = boottime() + 50 * SECOND;
    host.must(&format!("extend 5 {deadline}"));
    refused(&format!("extend 4 {}", deadline + 1), "lower than");
    refused(&format!("extend 5 {}", deadline - 1), "before the one held");
    host.must("start primary");
    host.await_server();
    refused("start primary", "still there");
    refused("disarm standby", "primary");
    refused("disarm stopped", "primary");
    host.must("disarm paused");
    let status = host.must("status");
    assert!(status.contains("paused: true") && status.contains("deadline: None"), "{status}");
    host.must(&format!("extend 5 {deadline}"));
    assert!(host.must("status").contains("paused: false"));
    host.must("kill");
    host.await_empty();
    host.must("disarm stopped");
    refused("start primary", "no lease deadline");
}

#[test]
fn a_standby_is_armed_before_its_promotion_and_disarmed_if_there_was_none() {
    let host = Host::begin();
    host.pids();
    std::fs::write(host.data().join("standby.signal"), "").unwrap();
    host.must("start standby");
    host.await_server();
    host.must(&format!("extend 1 {}", boottime() + 50 * SECOND));
    assert!(host.tell("disarm stopped").is_err());
    host.must("disarm standby");
    host.must(&format!("extend 2 {}", boottime() + 50 * SECOND));
    // Told to promote itself: from here on only its end disarms.
    host.must("signal 10");
    assert!(host.tell("disarm standby").is_err());
}

#[test]
fn a_command_that_does_not_start_is_an_error_and_leaves_nothing() {
    let host = Host::begin();
    host.pids();
    std::fs::rename(host.data(), host.directory.path().join("elsewhere")).unwrap();
    let error = host.tell("start standby").unwrap_err();
    assert!(error.contains("error number 2"), "{error}");
    host.await_empty();
}

#[test]
fn sigterm_ends_the_server_in_an_orderly_way() {
    let mut host = Host::begin();
    host.start_primary(1, 50 * SECOND);
    let pids = host.pids();
    assert_eq!(host.end(), Some(0), "{}", host.log());
    await_end("the postmaster", pids.postmaster);
    await_end("the inner guard", pids.inner);
    assert!(host.log().contains("database system is shut down"), "{}", host.log());
}

#[test]
fn an_agent_that_does_not_end_is_killed_with_everything() {
    let mut host = Host::begin_with(&[("stubborn", ""), ("impatient", "")]);
    host.start_primary(1, 50 * SECOND);
    let pids = host.pids();
    assert_eq!(host.end(), Some(1), "{}", host.log());
    host.await_no_server();
    await_end("the agent", pids.agent);
}

#[test]
fn a_frozen_inner_guard_does_not_stop_the_end() {
    let mut host = Host::begin_with(&[("impatient", "")]);
    host.start_primary(1, 50 * SECOND);
    let pids = host.pids();
    send(pids.inner, Signal::STOP);
    assert_eq!(host.end(), Some(1), "{}", host.log());
    host.await_no_server();
    await_end("the agent", pids.agent);
}

#[test]
fn a_configuration_error_ends_the_guard_and_others_do_not() {
    let mut host = Host::begin_with(&[("exit", "2")]);
    assert_eq!(host.exit_code(), Some(2));
    let mut host = Host::begin_with(&[("exit", "1")]);
    await_that("two more starts", || host.log().matches("exited with 1").count(), |count| *count >= 2);
    std::fs::write(host.directory.path().join("exit"), "0").unwrap();
    assert_eq!(host.exit_code(), Some(0));
}

#[test]
fn a_configuration_error_of_a_later_agent_does_not_end_the_guard() {
    let host = Host::begin();
    let before = host.pids();
    host.must("ready");
    std::fs::write(host.directory.path().join("exit"), "2").unwrap();
    send(before.agent, Signal::KILL);
    await_that("another start", || host.log(), |log| log.contains("exited with 2"));
    std::fs::remove_file(host.directory.path().join("exit")).unwrap();
    assert_eq!(host.next_pids(before).inner, before.inner);
}
