//! No segment is missing from the archive after a switchover, although the successor takes all that it streamed for archived.

use std::collections::BTreeSet;
use std::path::Path;

use pgbaton_testkit::cluster::{Cluster, Options, Part};
use pgbaton_testkit::{OsUser, TempDir};
use rustix::process::Pid;

use super::{LIMIT, nothing_lost, others, prepared, writing};

/// Segments that wait when the switchover begins.
const SEGMENTS: usize = 8;

/// Nothing is archived while this file is in the archive.
const HOLD: &str = "hold";

#[test]
fn a_switchover_leaves_no_gap_in_the_archive() {
    let directory = TempDir::new("archive", &OsUser::for_servers().unwrap()).unwrap();
    let cluster = archiving(directory.path());
    let writer = writing(&cluster);
    let old = cluster.wait_primary(LIMIT).unwrap();
    let new = others(old)[0];

    let server = hold_segments(&cluster, old, directory.path());
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_for_end(&cluster, old, &server);
    std::fs::remove_file(directory.path().join(HOLD)).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, new);
    drop(writer);
    // What the new primary had to archive itself is only what it wrote.
    cluster.sql(new, "SELECT pg_switch_wal()").unwrap();

    cluster
        .awaiting("an archive without a gap", LIMIT, || {
            let waiting = [old, new].map(|member| waiting(&cluster, member));
            let missing = missing(directory.path());
            let well = missing.is_empty() && waiting.iter().all(Vec::is_empty);
            Ok(if well { Ok(()) } else { Err(format!("missing: {missing:?}, waiting: {waiting:?}")) })
        })
        .unwrap();
    let log = std::fs::read_to_string(cluster.log_path(old)).unwrap();
    assert!(log.contains("archived what the server had left"), "the server's own archiver did it all:\n{log}");
}

#[test]
fn a_member_that_ends_archives_what_its_server_left() {
    let directory = TempDir::new("archive", &OsUser::for_servers().unwrap()).unwrap();
    let mut cluster = archiving(directory.path());
    let writer = writing(&cluster);
    let old = cluster.wait_primary(LIMIT).unwrap();

    let server = hold_segments(&cluster, old, directory.path());
    cluster.terminate(old).unwrap();
    wait_for_end(&cluster, old, &server);
    std::fs::remove_file(directory.path().join(HOLD)).unwrap();
    let code =
        cluster.awaiting("the end of the member", LIMIT, || Ok(cluster.exit_code(old)?.ok_or("it runs".to_owned())));
    assert_eq!(code.unwrap(), 0);
    assert_eq!(waiting(&cluster, old), Vec::<String>::new());
    let log = std::fs::read_to_string(cluster.log_path(old)).unwrap();
    assert!(log.contains("archived what the server had left"), "the server's own archiver did it all:\n{log}");
    let new = cluster.wait_primary(LIMIT).unwrap();
    nothing_lost(&cluster, &writer, new);
}

/// Three members that archive to that directory; nothing is archived while the hold is there.
fn archiving(directory: &Path) -> Cluster {
    let place = directory.display();
    let command = format!(
        "while [ -e {place}/{HOLD} ]; do sleep 0.1; done; cp %p {place}/%f.new && mv {place}/%f.new {place}/%f"
    );
    let parameters = vec!["archive_mode: \"on\"".to_owned(), format!("archive_command: '{command}'")];
    let mut cluster = prepared(Options { parameters, ..super::options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    cluster
}

/// Segments that wait, so that a primary's own archiver ends with all still to do. Gives its server's processes.
fn hold_segments(cluster: &Cluster, primary: usize, directory: &Path) -> Vec<Pid> {
    std::fs::write(directory.join(HOLD), "").unwrap();
    for _ in 0..SEGMENTS {
        cluster.sql(primary, "SELECT pg_logical_emit_message(true, 'a', 'b'); SELECT pg_switch_wal()").unwrap();
    }
    cluster.pids(primary, Part::Server).unwrap()
}

fn wait_for_end(cluster: &Cluster, member: usize, server: &[Pid]) {
    cluster
        .awaiting("the end of the old primary's server", LIMIT, || {
            let left: Vec<_> =
                cluster.pids(member, Part::Server)?.into_iter().filter(|pid| server.contains(pid)).collect();
            Ok(if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) })
        })
        .unwrap();
}

/// Files of a member's `pg_wal` that wait to be archived.
fn waiting(cluster: &Cluster, member: usize) -> Vec<String> {
    let names = names(&cluster.data_dir(member).join("pg_wal/archive_status"));
    names.into_iter().filter(|name| name.strip_suffix(".ready").is_some()).collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Segments of the first timeline that are not in the archive, up to the one in which the second begins.
fn missing(archive: &Path) -> Vec<String> {
    let archived = names(archive);
    let segment = |name: &String| match (name.len(), u64::from_str_radix(&name[16..], 16)) {
        (24, Ok(number)) if name.starts_with("00000002") => Some(number),
        _ => None,
    };
    let Some(first_of_second) = archived.iter().filter(|name| name.len() == 24).filter_map(segment).min() else {
        return vec!["every segment of timeline 2".to_owned()];
    };
    let wanted = (1..first_of_second).map(|number| format!("0000000100000000{number:08X}"));
    wanted.filter(|name| !archived.contains(name)).collect()
}
