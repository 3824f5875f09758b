//! A host is killed as a whole, with what tried to get away from it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use pgbaton_testkit::{Host, HostProgram, Launch, OsUser, TempDir, host::HostError, wait};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LIMIT: Duration = Duration::from_secs(20);

fn program() -> HostProgram {
    HostProgram::at(env!("CARGO_BIN_EXE_pgbaton-host"))
}

struct Fixture {
    host: Host,
    directory: TempDir,
}

fn fixture() -> Fixture {
    let user = OsUser::for_servers().unwrap();
    Fixture { host: Host::start("test", &program()).unwrap(), directory: TempDir::new("host", &user).unwrap() }
}

impl Fixture {
    fn shell(&mut self, script: &str) -> Pid {
        let launch = Launch::new("/bin/sh", self.directory.path().join("log")).args(["-c", script]);
        self.host.launch(&launch).unwrap()
    }

    fn wait_for(&mut self, command: &str, count: usize) -> Vec<Pid> {
        let host = &mut self.host;
        wait::until(&format!("{count} processes `{command}`"), LIMIT, || {
            let all = host.processes().unwrap();
            let found: Vec<Pid> = all
                .iter()
                .filter(|process| process.command == command)
                .filter_map(|process| Pid::from_raw(process.pid))
                .collect();
            if found.len() == count { Ok(found) } else { Err(format!("{all:?}")) }
        })
        .unwrap()
    }
}

#[test]
fn everything_is_killed_also_what_left_its_group_and_its_parent() {
    let mut fixture = fixture();
    // A daemon: its own session, its parent gone. A child that ignores what can be ignored. A stopped one.
    fixture.shell("setsid sleep 601 & exit 0");
    fixture.shell("trap '' TERM INT HUP; sleep 602; sleep 602");
    let stopped = fixture.shell("exec sleep 603");
    let daemon = fixture.wait_for("sleep 601", 1)[0];
    let ignoring = fixture.wait_for("sleep 602", 1)[0];
    fixture.wait_for("sleep 603", 1);
    fixture.host.signal(stopped, Signal::STOP).unwrap();

    fixture.host.kill_all().unwrap();

    assert_eq!(fixture.host.processes().unwrap(), []);
    for pid in [daemon, ignoring, stopped] {
        assert!(test_kill_process(pid).is_err(), "process {pid:?} is alive");
    }
    // The host itself goes on: a power cut is followed by a boot.
    fixture.shell("exec sleep 604");
    fixture.wait_for("sleep 604", 1);
}

#[test]
fn the_end_of_a_process_is_known() {
    let mut fixture = fixture();
    let pid = fixture.shell("exit 3");
    let killed = fixture.shell("kill -KILL $$");
    let host = &mut fixture.host;
    for (pid, expected) in [(pid, 3), (killed, 137)] {
        let code = wait::until("the end", LIMIT, || host.ended(pid).unwrap().ok_or("running".to_owned())).unwrap();
        assert_eq!(code, expected);
    }
}

#[test]
fn what_is_on_a_host_ends_with_its_owner() {
    let mut fixture = fixture();
    fixture.shell("exec sleep 605");
    let pid = fixture.wait_for("sleep 605", 1)[0];
    drop(fixture);
    assert!(test_kill_process(pid).is_err());
}

#[test]
fn a_program_that_is_missing_is_reported_and_the_host_goes_on() {
    let mut fixture = fixture();
    let error = fixture.host.launch(&Launch::new("/no/such/program", "/dev/null")).unwrap_err();
    assert!(
        matches!(&error, HostError::Refused { reason, .. } if reason.contains("/no/such/program: No such file")),
        "{error}"
    );
    fixture.shell("exec sleep 606");
    fixture.wait_for("sleep 606", 1);
}

#[test]
fn a_program_that_is_no_host_is_recognised() {
    let mut host = Host::start("true", &HostProgram::at("/bin/true")).unwrap();
    let error = host.processes().unwrap_err();
    assert!(matches!(error, HostError::Answer { .. } | HostError::Gone { .. }), "{error}");
}

#[test]
fn a_killed_parent_leaves_its_orphans_on_the_host() {
    let mut fixture = fixture();
    fixture.shell("sleep 607; true");
    let orphan = fixture.wait_for("sleep 607", 1)[0];
    let host = &mut fixture.host;
    let parent = host
        .processes()
        .unwrap()
        .into_iter()
        .find(|process| process.pid == orphan.as_raw_nonzero().get())
        .unwrap()
        .parent;
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    wait::until("the adoption", LIMIT, || {
        let all = host.processes().unwrap();
        if all.len() == 1 && all[0].parent != parent { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .unwrap();
}
