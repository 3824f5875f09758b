use std::fs;
use std::time::Duration;

use pgbaton_postgres::{
    LocalClient, Readiness, Recovery, SampledRole, Secret, SqlError, SqlTimeouts, StartAs, wait_ready,
};
use pgbaton_sys::Signal;
use pgbaton_types::TimelineId;

use crate::common::{PATIENCE, Server, scratch, server_test};

server_test! {
    async fn a_query_that_takes_too_long_is_cancelled_and_the_next_one_works() {
        let root = scratch();
        let mut server = Server::primary(root.path(), "a").await;
        // Only the statement that must miss its deadline has a short one.
        let short = Duration::from_secs(1);
        let mut client = LocalClient::new(&server.spec, SqlTimeouts { connect: PATIENCE, query: PATIENCE });
        client.query("SELECT 1").await.unwrap();
        // Beyond statement_timeout, so that only our own deadline and its cancel request can end it.
        let result = client.execute_within("SET statement_timeout = 0; SELECT pg_sleep(600)", short).await;
        assert!(matches!(result, Err(SqlError::TimedOut { waited, .. }) if waited == short), "{result:?}");
        client.query("SELECT 1").await.unwrap();
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        server.wait_for(sleeping, "0").await;
        // What may take longer than usual may do so for the server, too: else this divides by zero.
        let longer = PATIENCE + Duration::from_secs(7);
        let allowed = format!("SELECT 1 / (current_setting('statement_timeout') = '{}s')::int", longer.as_secs());
        client.execute_within(&allowed, longer).await.unwrap();
        let refused = client.query("SELECT nonsense").await.unwrap_err();
        assert_eq!(refused.readiness(), Readiness::Ready);
        assert_eq!(refused.sqlstate().unwrap().code(), "42703");
    }
}

server_test! {
    async fn a_probe_tells_how_a_server_is() {
        let root = scratch();
        let mut server = Server::primary(root.path(), "a").await;
        assert_eq!(server.client.probe_new_connection().await, Readiness::Ready);
        let mut stranger = server.spec.clone();
        stranger.authentication.superuser.password = Some(Secret::new("wrong"));
        let stranger = LocalClient::new(&stranger, SqlTimeouts { connect: PATIENCE, query: PATIENCE });
        assert_eq!(stranger.try_new_connection().await.unwrap_err().readiness(), Readiness::Refused);
        let refused = wait_ready(&stranger, PATIENCE).await.unwrap_err();
        assert_eq!(refused.source.sqlstate().unwrap().code(), "28P01");
        server.stop(Signal::INT);
        assert_eq!(server.client.probe_new_connection().await, Readiness::Absent);
        let never = wait_ready(&server.client, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(never.source.readiness(), Readiness::Absent);
        // A standby that waits for its archive takes no connections.
        let dir = root.path().display();
        let restore = format!("while test -d {dir} && ! test -e {dir}/go; do sleep 0.05; done; false");
        let overrides = [("restore_command".to_owned(), restore)].into();
        server.spawn(StartAs::Standby, &Recovery { upstream: None, overrides });
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut seen = server.client.probe_new_connection().await;
        while seen != Readiness::Starting {
            assert!(tokio::time::Instant::now() < deadline, "not starting, but {seen:?}\n{}", server.log());
            tokio::task::yield_now().await;
            seen = server.client.probe_new_connection().await;
        }
        fs::write(root.path().join("go"), "").unwrap();
        wait_ready(&server.client, PATIENCE).await.unwrap();
        let hasty = LocalClient::new(&server.spec, SqlTimeouts::default());
        server.kill(Signal::STOP);
        assert_eq!(hasty.probe_new_connection().await, Readiness::Silent);
        server.kill(Signal::CONT);
    }
}

server_test! {
    async fn a_sample_shows_both_ends_of_replication() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "node-a").await;
        let mut standby = Server::standby_of(root.path(), "node-b", &mut primary).await;
        primary.wait_for("SELECT state FROM pg_stat_replication", "streaming").await;
        let sample = primary.client.sample().await.unwrap();
        let SampledRole::Primary { timeline, flushed, .. } = sample.role else { panic!("{sample:?}") };
        assert_eq!(timeline, TimelineId(1));
        assert_eq!((sample.version / 10_000, sample.system_id), (15, primary.control().system_id));
        let row = &sample.replication[0];
        assert_eq!((row.application_name.as_str(), row.sync_state.as_str()), ("node-b", "async"));
        assert_eq!(row.client_address, Some("127.0.0.1".parse().unwrap()));
        let slot = &sample.slots[0];
        assert!(slot.name == "node_b" && slot.physical && slot.active && slot.restart.is_some(), "{slot:?}");
        standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{flushed}'"), "t").await;
        let below = standby.client.sample().await.unwrap();
        assert!(below.in_recovery() && below.position() >= flushed, "{below:?}");
        let receiver = below.receiver().unwrap();
        assert!(receiver.streams_from(&primary.spec.connect_address), "{receiver:?}");
        assert_eq!(receiver.timeline, Some(TimelineId(1)));
        // After a restart without an upstream the received position alone would be too low.
        standby.stop(Signal::INT);
        standby.start(StartAs::Standby, &Recovery::default()).await;
        let alone = standby.client.sample().await.unwrap();
        assert!(alone.position() >= flushed && alone.receiver().is_none(), "{alone:?}");
        assert_ne!(alone.postmaster_started, below.postmaster_started);
    }
}

server_test! {
    async fn slots_are_made_once_and_dropped_unless_in_use() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let members = ["b".parse().unwrap(), "node-c.1".parse().unwrap()];
        assert_eq!(primary.client.ensure_slots(&members).await.unwrap(), ["b", "node_c_1"]);
        assert_eq!(primary.client.ensure_slots(&members).await.unwrap(), Vec::<String>::new());
        assert_eq!(primary.sql("SELECT count(restart_lsn) FROM pg_replication_slots").await, "2");
        let _standby = Server::standby_of(root.path(), "b", &mut primary).await;
        assert!(!primary.client.drop_slot("b").await.unwrap(), "a slot in use was dropped");
        assert!(primary.client.drop_slot("node_c_1").await.unwrap());
        assert!(!primary.client.drop_slot("node_c_1").await.unwrap());
    }
}

server_test! {
    async fn settings_that_wait_for_a_restart_are_named() {
        let root = scratch();
        let mut server = Server::primary(root.path(), "a").await;
        assert_eq!(server.client.pending_restart().await.unwrap(), Vec::<String>::new());
        server.spec.parameters.insert("shared_buffers".into(), "9MB".into());
        pgbaton_postgres::write_config(&server.spec, &Recovery::default()).unwrap();
        server.kill(Signal::HUP);
        server.wait_for("SELECT string_agg(name, ',') FROM pg_settings WHERE pending_restart", "shared_buffers").await;
        assert_eq!(server.client.pending_restart().await.unwrap(), ["shared_buffers"]);
    }
}
