//! No segment is missing from the archive after a switchover, although the successor takes all that it streamed for archived.

use std::collections::BTreeSet;
use std::path::Path;

use pgbaton_testkit::cluster::{Cluster, Options, Part};
use pgbaton_testkit::{OsUser, TempDir};

use super::{LIMIT, nothing_lost, others, prepared, writing};

/// Segments that wait when the switchover begins.
const SEGMENTS: usize = 8;

#[test]
fn a_switchover_leaves_no_gap_in_the_archive() {
    let directory = TempDir::new("archive", &OsUser::for_servers().unwrap()).unwrap();
    let place = directory.path().display();
    // Nothing is archived while the hold is there, so that the old primary's own archiver ends with all still to do.
    let hold = directory.path().join("hold");
    let command =
        format!("while [ -e {place}/hold ]; do sleep 0.1; done; cp %p {place}/%f.new && mv {place}/%f.new {place}/%f");
    let parameters = vec!["archive_mode: \"on\"".to_owned(), format!("archive_command: '{command}'")];
    let mut cluster = prepared(Options { parameters, ..Options::default() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let writer = writing(&cluster);
    let old = cluster.wait_primary(LIMIT).unwrap();
    let new = others(old)[0];

    let server = cluster.pids(old, Part::Server).unwrap();
    std::fs::write(&hold, "").unwrap();
    for _ in 0..SEGMENTS {
        cluster.sql(old, "SELECT pg_logical_emit_message(true, 'a', 'b'); SELECT pg_switch_wal()").unwrap();
    }
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster
        .awaiting("the end of the old primary's server", LIMIT, || {
            let left: Vec<_> =
                cluster.pids(old, Part::Server)?.into_iter().filter(|pid| server.contains(pid)).collect();
            Ok(if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) })
        })
        .unwrap();
    std::fs::remove_file(&hold).unwrap();
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
