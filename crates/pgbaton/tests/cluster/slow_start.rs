//! A primary's server that does not come up in its time: another member leads, if one can.

use std::fs;
use std::os::unix::fs::symlink;

use pgbaton_testkit::cluster::{Cluster, Options, Part};
use pgbaton_testkit::{OsUser, TempDir, clock, install, postgres};
use rustix::process::Signal;
use serde_json::json;

use super::{LIMIT, commit_elsewhere, prepared, timeline, writing};

#[test]
fn another_member_leads_when_the_server_does_not_come_up_in_its_time() {
    let programs = HeldBack::new();
    let cluster = held_back(&programs, 3);
    let writer = writing(&cluster);
    let first = cluster.wait_primary(LIMIT).unwrap();

    let held = Held::of(&cluster, first);
    let instant = clock::now();
    cluster.signal(first, Part::Postmaster, Signal::KILL).unwrap();
    let second = commit_elsewhere(&writer, instant, first).server;
    assert!(log(&cluster, first).contains("gave up on the server"), "{}", log(&cluster, first));
    drop(held);
    cluster.wait_healthy(LIMIT).unwrap();

    // A restart that may take two seconds.
    let held = Held::of(&cluster, second);
    let instant = clock::now();
    let answer = cluster.rest(second, "POST", "/restart", &json!({"timeout": 2}).to_string(), LIMIT).unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.starts_with("restart failed"), "{answer:?}");
    commit_elsewhere(&writer, instant, second);
    drop(held);
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(writer.so_far().two_writable(), None, "two servers took writes at once");
}

#[test]
fn without_another_member_it_is_waited_for() {
    let programs = HeldBack::new();
    let cluster = held_back(&programs, 1);

    let held = Held::of(&cluster, 0);
    cluster.signal(0, Part::Postmaster, Signal::KILL).unwrap();
    let alone = "nobody could lead instead: there is no other member";
    cluster
        .awaiting("a server that is waited for", LIMIT, || {
            let why = cluster.blocked(0).unwrap_or_default();
            Ok(if why.contains(alone) { Ok(()) } else { Err(why) })
        })
        .unwrap();
    drop(held);
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(timeline(&cluster, 0), 1);
    assert!(!log(&cluster, 0).contains("gives the lease back"), "{}", log(&cluster, 0));
}

/// A healthy cluster of members that can be held back.
fn held_back(programs: &HeldBack, members: u8) -> Cluster {
    let bin_dir = Some(programs.directory.path().to_owned());
    let dcs = vec!["primary_start_timeout: 2".to_owned()];
    let mut cluster = prepared(Options { members, bin_dir, dcs, ..super::options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

fn log(cluster: &Cluster, member: usize) -> String {
    fs::read_to_string(cluster.log_path(member)).unwrap()
}

/// PostgreSQL's programs; a server of theirs does not start while its member is held back, as in a long recovery.
struct HeldBack {
    directory: TempDir,
}

impl HeldBack {
    fn new() -> Self {
        let directory = TempDir::new("bin", &OsUser::for_servers().unwrap()).unwrap();
        let (installed, place) = (postgres::bin_dir().unwrap(), directory.path());
        for entry in fs::read_dir(&installed).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "postgres" {
                symlink(entry.path(), place.join(entry.file_name())).unwrap();
            }
        }
        let server = installed.join("postgres");
        // A server's working directory is its data directory.
        let lines = format!("while [ -e ../{HOLD} ]; do sleep 0.05; done\nexec {} \"$@\"\n", server.display());
        let script = place.join("script");
        fs::write(&script, format!("#!/bin/sh\n{lines}")).unwrap();
        install(&script, &place.join("postgres")).unwrap();
        Self { directory }
    }
}

/// A file beside the data directory of the member that is held back.
const HOLD: &str = "hold";

/// A member is held back as long as this lives.
struct Held(std::path::PathBuf);

impl Held {
    fn of(cluster: &Cluster, member: usize) -> Self {
        let path = cluster.data_dir(member).with_file_name(HOLD);
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}
