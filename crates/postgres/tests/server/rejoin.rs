use std::fs;

use pgbaton_postgres::{
    DataDirState, DatabaseState, Operation, Recovery, RewindError, StartAs, can_rewind, inspect, promote, rewind,
    save_wal_tail, saved_wal_dir, wait_streaming,
};
use pgbaton_sys::Signal;
use pgbaton_types::{Lsn, TimelineId};

use crate::common::{PATIENCE, Server, no_sync, scratch, server_test};

/// A crashed old primary `a` with rows that nobody else has, and its successor `b` on timeline 2.
async fn diverged(root: &std::path::Path) -> (Server, Server, Lsn) {
    let mut a = Server::primary(root, "a").await;
    let mut b = Server::standby_of(root, "b", &mut a).await;
    a.sql("CREATE TABLE public.t AS SELECT generate_series(1, 1000) AS i").await;
    b.wait_for("SELECT count(*) FROM pg_class WHERE relname = 't'", "1").await;
    let signals = b.signals();
    let promoted = promote(&b.spec, &mut b.client, signals, PATIENCE).await.unwrap();
    assert_eq!(promoted.timeline, TimelineId(2));
    b.client.checkpoint(PATIENCE).await.unwrap();
    let history = pgbaton_postgres::read_history(&b.spec.data_dir, TimelineId(2)).unwrap();
    a.client.execute_within("UPDATE public.t SET i = -i", PATIENCE).await.unwrap();
    b.sql("INSERT INTO public.t VALUES (5000)").await;
    a.stop(Signal::QUIT);
    (a, b, history.ancestors()[0].switch)
}

/// What the guard does with a crashed directory: a standby without upstream, started and stopped.
async fn settle(server: &mut Server) {
    assert_eq!(server.control().state, DatabaseState::InProduction);
    server.start(StartAs::Standby, &Recovery::default()).await;
    server.stop(Signal::INT);
    assert_eq!(server.control().state, DatabaseState::ShutDownInRecovery);
}

server_test! {
    async fn an_old_primary_is_rewound_and_follows_its_successor() {
        let root = scratch();
        let (mut a, mut b, parted) = diverged(root.path()).await;
        assert!(can_rewind(&a.control()));
        let source = b.spec.connect_address.clone();
        let crashed = rewind(&a.spec, &source, &[], PATIENCE, |_| ()).await.unwrap_err();
        assert!(matches!(crashed, RewindError::NotShutDown(DatabaseState::InProduction)), "{crashed}");
        settle(&mut a).await;
        let saved = save_wal_tail(&a.spec.data_dir, TimelineId(1), parted).unwrap();
        assert!(!saved.is_empty());
        let mut lines = 0;
        rewind(&a.spec, &source, &no_sync(), PATIENCE, |_| lines += 1).await.unwrap();
        assert!(lines > 0);
        assert!(matches!(inspect(&a.spec.data_dir).unwrap(), DataDirState::Database { .. }));
        for name in &saved {
            assert!(fs::metadata(saved_wal_dir(&a.spec.data_dir).join(name)).unwrap().len() > 0);
        }
        b.client.ensure_slots(&[a.spec.name.clone()]).await.unwrap();
        a.start(StartAs::Standby, &Recovery::from_upstream(a.upstream(&b))).await;
        let signals = a.signals();
        wait_streaming(&mut a.client, &source, signals, PATIENCE).await.unwrap();
        a.wait_for("SELECT count(*) FROM public.t WHERE i = 5000", "1").await;
        assert_eq!(a.sql("SELECT count(*) FROM public.t WHERE i < 0").await, "0");
        let conf = fs::read_to_string(a.spec.file("postgresql.conf")).unwrap();
        assert!(conf.contains(&format!("port = '{}'", a.spec.port)), "the source's settings are still there:\n{conf}");
    }
}

server_test! {
    async fn a_directory_counts_as_incomplete_while_it_is_rewound() {
        let root = scratch();
        let (mut a, mut b, _) = diverged(root.path()).await;
        settle(&mut a).await;
        let source = b.spec.connect_address.clone();
        b.stop(Signal::INT);
        let failed = rewind(&a.spec, &source, &[], PATIENCE, |_| ()).await.unwrap_err();
        assert!(failed.to_string().contains("pg_rewind failed"), "{failed}");
        assert!(matches!(inspect(&a.spec.data_dir).unwrap(), DataDirState::Database { .. }), "nothing was touched");
        b.start(StartAs::Primary, &Recovery::default()).await;
        // The last line comes when everything that the source does not have is removed; the marker is still there.
        let mut last = (String::new(), None);
        let data_dir = a.spec.data_dir.clone();
        let look = |line: &str| last = (line.to_owned(), inspect(&data_dir).ok());
        rewind(&a.spec, &source, &no_sync(), PATIENCE, look).await.unwrap();
        let marked = DataDirState::Incomplete { operation: Operation::Rewind };
        assert_eq!(last, ("pg_rewind: Done!".to_owned(), Some(marked)));
        assert!(matches!(inspect(&a.spec.data_dir).unwrap(), DataDirState::Database { .. }));
    }
}
