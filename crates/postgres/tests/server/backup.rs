use std::fs;
use std::time::Duration;

use pgbaton_postgres::{
    DataDirState, NewerGoodCopy, Operation, Recovery, StartAs, base_backup, follow, inspect, prune_quarantine,
    quarantine, quarantined,
};
use pgbaton_sys::Signal;

use crate::common::{PATIENCE, Server, no_sync, scratch, server_test};

server_test! {
    async fn a_copy_reports_progress_and_streams_from_its_slot() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        primary.fill(100_000).await;
        let mut standby = Server::new(root.path(), "b");
        primary.client.ensure_slots(std::slice::from_ref(&standby.spec.name)).await.unwrap();
        let mut steps = Vec::new();
        let upstream = standby.upstream(&primary);
        base_backup(&standby.spec, &upstream, &no_sync(), PATIENCE, |step| steps.push(step)).await.unwrap();
        let last = steps.last().expect("no progress was reported");
        assert!(last.done_bytes > 10 << 20 && last.total_bytes >= last.done_bytes, "{last:?}");
        assert!(matches!(inspect(&standby.spec.data_dir).unwrap(), DataDirState::Database { .. }));
        standby.start(StartAs::Standby, &Recovery::default()).await;
        assert!(standby.client.sample().await.unwrap().receiver().is_none());
        // Told where to stream from while it runs: no restart, no retry interval.
        let recovery = Recovery::from_upstream(standby.upstream(&primary));
        let signals = standby.signals();
        let receiver = follow(&standby.spec, &recovery, &mut standby.client, signals, PATIENCE).await.unwrap().unwrap();
        assert!(receiver.is_streaming());
        primary.sql("INSERT INTO public.t VALUES (-1)").await;
        standby.wait_for("SELECT count(*) FROM public.t WHERE i = -1", "1").await;
        let signals = standby.signals();
        let nobody = follow(&standby.spec, &Recovery::default(), &mut standby.client, signals, PATIENCE).await.unwrap();
        assert!(nobody.is_none());
        standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'", "0").await;
    }
}

server_test! {
    async fn a_copy_that_was_interrupted_is_incomplete_and_can_be_made_again() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        primary.fill(100_000).await;
        let standby = Server::new(root.path(), "b");
        primary.client.ensure_slots(std::slice::from_ref(&standby.spec.name)).await.unwrap();
        let upstream = standby.upstream(&primary);
        {
            // A few kB a second: it is under way at the moment in which it is dropped.
            let slow = [pgbaton_postgres::ToolOption::Value("max-rate".into(), "32k".into())];
            let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
            let copy = base_backup(&standby.spec, &upstream, &slow, PATIENCE, move |step| sender.send(step).unwrap());
            tokio::select! {
                result = copy => panic!("it cannot be done yet: {result:?}"),
                step = started.recv() => assert!(step.is_some()),
            }
        }
        let state = inspect(&standby.spec.data_dir).unwrap();
        assert_eq!(state, DataDirState::Incomplete { operation: Operation::BaseBackup });
        primary.wait_for("SELECT count(*) FROM pg_stat_replication", "0").await;
        // As if the machine had gone down while the copy was moved into place.
        fs::write(standby.spec.file("PG_VERSION"), "15\n").unwrap();
        fs::create_dir(standby.spec.file("global")).unwrap();
        let _standby = standby.clone_from(&mut primary).await;
    }
}

server_test! {
    async fn data_is_never_overwritten_and_quarantined_data_is_whole() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        standby.stop(Signal::INT);
        let upstream = standby.upstream(&primary);
        let refused = base_backup(&standby.spec, &upstream, &[], PATIENCE, |_| ()).await.unwrap_err();
        assert!(refused.to_string().contains("is not empty"), "{refused}");
        let system_id = standby.control().system_id;
        let place = quarantine(&standby.spec.data_dir).unwrap();
        assert_eq!(inspect(&standby.spec.data_dir).unwrap(), DataDirState::Missing);
        assert!(matches!(inspect(&place).unwrap(), DataDirState::Database { .. }));
        let mut standby = standby.clone_from(&mut primary).await;
        standby.stop(Signal::INT);
        let second = quarantine(&standby.spec.data_dir).unwrap();
        let standby = standby.clone_from(&mut primary).await;
        assert_eq!(quarantined(&standby.spec.data_dir).unwrap(), [place.clone(), second.clone()]);
        let evidence = NewerGoodCopy { system_id };
        let deleted = prune_quarantine(&standby.spec.data_dir, std::num::NonZero::<usize>::MIN, evidence).unwrap();
        assert_eq!(deleted, std::slice::from_ref(&place));
        assert!(!place.exists() && fs::exists(second.join("PG_VERSION")).unwrap());
    }
}

server_test! {
    async fn an_unreachable_source_fails_with_its_reason() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let standby = Server::new(root.path(), "b");
        let mut wrong = standby.spec.clone();
        wrong.authentication.replication.password = Some(pgbaton_postgres::Secret::new("wrong"));
        let upstream = pgbaton_postgres::Upstream { slot: None, ..standby.upstream(&primary) };
        let refused = base_backup(&wrong, &upstream, &[], PATIENCE, |_| ()).await.unwrap_err();
        assert!(refused.to_string().contains("password authentication failed"), "{refused}");
        primary.stop(Signal::INT);
        let refused = base_backup(&standby.spec, &upstream, &[], Duration::from_secs(20), |_| ()).await.unwrap_err();
        assert!(refused.to_string().contains("Connection refused"), "{refused}");
    }
}
