use std::collections::BTreeMap;

use pgbaton_postgres::{ControlFile, DataDirState, DatabaseState, Recovery, StartAs, inspect, wait_shut_down};
use pgbaton_sys::Signal;

use crate::common::{PATIENCE, Server, assert_same, scratch, server_test, tool, version};

fn controldata(server: &Server) -> BTreeMap<String, String> {
    let text = tool("pg_controldata", &[server.spec.data_dir.to_str().unwrap()]);
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn compare(ours: &ControlFile, theirs: &BTreeMap<String, String>) {
    let on = |value: bool| if value { "on" } else { "off" }.to_owned();
    let pairs = [
        ("Database system identifier", ours.system_id.to_string()),
        ("pg_control version number", ours.version.to_string()),
        ("Catalog version number", ours.catalog_version.to_string()),
        ("Database cluster state", ours.state.name().to_owned()),
        ("Latest checkpoint location", ours.checkpoint.to_string()),
        ("Latest checkpoint's REDO location", ours.redo.to_string()),
        ("Latest checkpoint's TimeLineID", ours.checkpoint_timeline.to_string()),
        ("Latest checkpoint's PrevTimeLineID", ours.previous_timeline.to_string()),
        ("Minimum recovery ending location", ours.min_recovery.to_string()),
        ("Min recovery ending loc's timeline", ours.min_recovery_timeline.map_or(0, |timeline| timeline.0).to_string()),
        ("Backup start location", ours.backup_start.to_string()),
        ("wal_log_hints setting", on(ours.wal_log_hints)),
        ("max_connections setting", ours.max_connections.to_string()),
        ("max_worker_processes setting", ours.max_worker_processes.to_string()),
        ("max_wal_senders setting", ours.max_wal_senders.to_string()),
        ("max_prepared_xacts setting", ours.max_prepared_transactions.to_string()),
        ("max_locks_per_xact setting", ours.max_locks_per_transaction.to_string()),
        ("track_commit_timestamp setting", on(ours.track_commit_timestamp)),
        ("WAL block size", ours.wal_block_size.to_string()),
        ("Bytes per WAL segment", ours.wal_segment_size.to_string()),
        ("Data page checksum version", u32::from(ours.data_checksums).to_string()),
    ];
    for (key, value) in pairs {
        assert_same(key, &Some(value.as_str()), &theirs.get(key).map(String::as_str));
    }
    assert!(ours.checkpoint_at > 1_700_000_000 && ours.written_at >= ours.checkpoint_at);
}

server_test! {
    async fn the_control_file_says_what_pg_controldata_says() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        assert_eq!(version(&primary).await.major, 15);
        assert_eq!(primary.control().state, DatabaseState::InProduction);
        compare(&primary.control(), &controldata(&primary));
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        compare(&standby.control(), &controldata(&standby));
        assert_eq!(standby.control().state, DatabaseState::InArchiveRecovery);
        standby.stop(Signal::INT);
        compare(&standby.control(), &controldata(&standby));
        assert_eq!(standby.control().state, DatabaseState::ShutDownInRecovery);
        primary.stop(Signal::QUIT);
        assert_eq!(primary.control().state, DatabaseState::InProduction);
        match inspect(&primary.spec.data_dir).unwrap() {
            DataDirState::Database { major, control } => assert_eq!((major, *control), (15, primary.control())),
            other => panic!("{other:?}"),
        }
    }
}

server_test! {
    async fn a_server_is_shut_down_before_its_postmaster_ends() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        // Archiving fails, so that the postmaster tries again for some time after its last checkpoint.
        primary.stop(Signal::INT);
        primary.spec.parameters.insert("archive_mode".into(), "on".into());
        primary.spec.parameters.insert("archive_command".into(), "false".into());
        primary.start(StartAs::Primary, &Recovery::default()).await;
        primary.sql("SELECT pg_switch_wal()").await;
        primary.client.disconnect();
        let running = wait_shut_down(&primary.spec.data_dir, std::time::Duration::from_millis(20)).await;
        assert!(running.unwrap_err().to_string().contains("in production"));
        primary.kill(Signal::INT);
        let control = wait_shut_down(&primary.spec.data_dir, PATIENCE).await.unwrap();
        assert_eq!(control.state, DatabaseState::ShutDown);
        assert!(!pgbaton_postgres::unarchived_segments(&primary.spec.data_dir).unwrap().is_empty());
    }
}

server_test! {
    async fn what_a_stopped_server_left_is_archived_by_its_own_command() {
        let root = scratch();
        let archive = root.path().join("archive");
        std::fs::create_dir(&archive).unwrap();
        let mut primary = Server::primary(root.path(), "a").await;
        primary.stop(Signal::INT);
        primary.spec.parameters.insert("archive_mode".into(), "on".into());
        // The archiver fails as long as the server runs.
        let command = format!("test -e {0}/open && cp %p {0}/%f", archive.display());
        primary.spec.parameters.insert("archive_command".into(), command);
        primary.start(StartAs::Primary, &Recovery::default()).await;
        for _ in 0..3 {
            primary.sql("SELECT pg_logical_emit_message(false, 'a', 'b')").await;
            primary.sql("SELECT pg_switch_wal()").await;
        }
        primary.stop(Signal::INT);
        let spec = &primary.spec;
        let waiting = pgbaton_postgres::unarchived_segments(&spec.data_dir).unwrap();
        assert!(waiting.len() >= 3, "{waiting:?}");

        let closed = pgbaton_postgres::archive_waiting(spec, PATIENCE, || true).await.unwrap();
        assert_eq!((closed.done.len(), &closed.left), (0, &waiting));
        assert!(!closed.late && closed.why.unwrap().contains("exit status: 1"));
        let late = pgbaton_postgres::archive_waiting(spec, std::time::Duration::ZERO, || true).await.unwrap();
        assert_eq!((late.late, late.done.len(), &late.left), (true, 0, &waiting));

        std::fs::write(archive.join("open"), "").unwrap();
        let stopped = pgbaton_postgres::archive_waiting(spec, PATIENCE, || false).await.unwrap();
        assert_eq!((stopped.done.len(), stopped.why), (0, None));
        let archived = pgbaton_postgres::archive_waiting(spec, PATIENCE, || true).await.unwrap();
        assert_eq!((&archived.done, archived.left.len(), archived.why), (&waiting, 0, None));
        for name in &waiting {
            let segment = std::fs::read(spec.data_dir.join("pg_wal").join(name)).unwrap();
            assert!(std::fs::read(archive.join(name)).unwrap() == segment, "{name} differs");
        }
        // The server sees that nothing waits any more.
        primary.start(StartAs::Primary, &Recovery::default()).await;
        let spec = &primary.spec;
        assert!(pgbaton_postgres::unarchived_segments(&spec.data_dir).unwrap().is_empty());
    }
}
