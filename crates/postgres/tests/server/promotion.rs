use pgbaton_postgres::{DatabaseState, PromoteError, Recovery, StartAs, follow, promote, read_history, wait_streaming};
use pgbaton_sys::Signal;
use pgbaton_types::TimelineId;

use crate::common::{PATIENCE, Server, scratch, server_test};

server_test! {
    async fn a_standby_becomes_primary_and_the_other_follows_it() {
        let root = scratch();
        let mut a = Server::primary(root.path(), "a").await;
        let mut b = Server::standby_of(root.path(), "b", &mut a).await;
        let mut c = Server::standby_of(root.path(), "c", &mut a).await;
        let signals = a.signals();
        let refused = promote(&a.spec, &mut a.client, signals, PATIENCE).await.unwrap_err();
        assert!(matches!(refused, PromoteError::NotAStandby(DatabaseState::InProduction)));
        a.stop(Signal::QUIT);
        let signals = b.signals();
        let promoted = promote(&b.spec, &mut b.client, signals, PATIENCE).await.unwrap();
        assert_eq!(promoted.timeline, TimelineId(2));
        assert!(!b.spec.file("promote").exists());
        let history = read_history(&b.spec.data_dir, TimelineId(2)).unwrap();
        assert_eq!(history.ancestors()[0].timeline, TimelineId(1));
        assert!(history.ancestors()[0].switch <= promoted.flushed);
        b.sql("CREATE TABLE public.after_promotion ()").await;
        b.client.ensure_slots(&[c.spec.name.clone()]).await.unwrap();
        let recovery = Recovery::from_upstream(c.upstream(&b));
        let signals = c.signals();
        follow(&c.spec, &recovery, &mut c.client, signals, PATIENCE).await.unwrap();
        c.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'after_promotion'", "1").await;
        assert_eq!(c.client.sample().await.unwrap().timeline(), TimelineId(2));
        assert_eq!(read_history(&c.spec.data_dir, TimelineId(2)).unwrap(), history);
    }
}

server_test! {
    async fn a_promotion_right_after_the_upstream_vanished_is_not_delayed() {
        let root = scratch();
        let mut a = Server::primary(root.path(), "a").await;
        let mut b = Server::new(root.path(), "b");
        // With PostgreSQL's own value an unnoticed request would wait for longer than the test's patience.
        b.spec.parameters.insert("wal_retrieve_retry_interval".into(), "10min".into());
        let mut b = b.clone_from(&mut a).await;
        a.stop(Signal::QUIT);
        b.wait_for("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'", "0").await;
        let signals = b.signals();
        promote(&b.spec, &mut b.client, signals, PATIENCE).await.unwrap();
    }
}

server_test! {
    async fn a_standby_streams_again_as_soon_as_it_is_told_that_its_upstream_is_back() {
        let root = scratch();
        let mut a = Server::primary(root.path(), "a").await;
        let mut b = Server::new(root.path(), "b");
        b.spec.parameters.insert("wal_retrieve_retry_interval".into(), "10min".into());
        let mut b = b.clone_from(&mut a).await;
        a.stop(Signal::INT);
        b.wait_for("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'", "0").await;
        a.start(StartAs::Primary, &Recovery::default()).await;
        let signals = b.signals();
        wait_streaming(&mut b.client, &a.spec.connect_address, signals, PATIENCE).await.unwrap();
    }
}
