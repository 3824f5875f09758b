use pgbaton_postgres::{
    Possession, Recovery, StartAs, WalError, holds, point_to, promote, shutdown_checkpoint, wait_shut_down,
};
use pgbaton_sys::Signal;
use pgbaton_types::{Lsn, ShutdownCheckpoint};

use crate::common::{PATIENCE, Server, scratch, server_test, tool};

/// Waits until the standby received this far, and gives what it has.
async fn received(standby: &mut Server, end: Lsn) -> Lsn {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let position = standby.client.sample().await.unwrap().position();
        if position >= end {
            return position;
        }
        assert!(tokio::time::Instant::now() < deadline, "the standby has {position}, not {end}\n{}", standby.log());
        tokio::task::yield_now().await;
    }
}

/// Stops the primary in order and gives the proof material.
async fn stop(primary: &mut Server) -> ShutdownCheckpoint {
    primary.client.disconnect();
    primary.kill(Signal::INT);
    let control = wait_shut_down(&primary.spec.data_dir, PATIENCE).await.unwrap();
    let checkpoint = shutdown_checkpoint(&primary.spec.data_dir).unwrap();
    assert_eq!(checkpoint.start, control.checkpoint);
    checkpoint
}

/// What `pg_waldump` says of the same record.
fn compare_with_waldump(primary: &Server, checkpoint: &ShutdownCheckpoint) {
    let wal = primary.spec.file("pg_wal");
    let dump = tool(
        "pg_waldump",
        &[
            "-p",
            wal.to_str().unwrap(),
            "-t",
            &checkpoint.timeline.to_string(),
            "-n",
            "1",
            "-s",
            &checkpoint.start.to_string(),
        ],
    );
    assert!(dump.contains("CHECKPOINT_SHUTDOWN"), "{dump}");
    let shown: Lsn = dump.split("prev ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
    assert_eq!(checkpoint.previous, shown, "{dump}");
}

server_test! {
    async fn a_standby_that_has_everything_can_prove_it() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        assert!(matches!(shutdown_checkpoint(&primary.spec.data_dir), Err(WalError::NotShutDown(_))));
        primary.sql("CREATE TABLE public.t AS SELECT 1 AS i").await;
        let checkpoint = stop(&mut primary).await;
        compare_with_waldump(&primary, &checkpoint);
        let position = received(&mut standby, checkpoint.end).await;
        // The server counts the end of the record as we do.
        assert_eq!(position, checkpoint.end);
        assert_eq!(holds(&standby.spec.data_dir, &checkpoint, position).unwrap(), Possession::Held);
        let early = Lsn(checkpoint.end.0 - 1);
        let behind = Possession::Behind { received: early };
        assert_eq!(holds(&standby.spec.data_dir, &checkpoint, early).unwrap(), behind);
        let other = ShutdownCheckpoint { crc: checkpoint.crc ^ 1, ..checkpoint };
        assert!(matches!(holds(&standby.spec.data_dir, &other, position).unwrap(), Possession::Different { .. }));
        let stranger = ShutdownCheckpoint { system_id: pgbaton_types::SystemId(1), ..checkpoint };
        assert!(matches!(holds(&standby.spec.data_dir, &stranger, position).unwrap(), Possession::Different { .. }));
    }
}

server_test! {
    async fn the_proof_works_where_the_checkpoint_follows_a_segment_switch() {
        let root = scratch();
        let mut primary = Server::new(root.path(), "a");
        primary.spec.parameters.insert("archive_mode".into(), "on".into());
        primary.spec.parameters.insert("archive_command".into(), "true".into());
        let mut primary = primary.bootstrap().await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        let checkpoint = stop(&mut primary).await;
        compare_with_waldump(&primary, &checkpoint);
        // Behind the long header of a new segment.
        assert_eq!(checkpoint.start.0 % (16 << 20), 40, "{checkpoint}");
        let position = received(&mut standby, checkpoint.end).await;
        // The server counts the end of the record as we do.
        assert_eq!(position, checkpoint.end);
        assert_eq!(holds(&standby.spec.data_dir, &checkpoint, position).unwrap(), Possession::Held);
    }
}

server_test! {
    async fn records_that_cross_pages_and_segments_are_read() {
        let root = scratch();
        let mut server = Server::primary(root.path(), "a").await;
        let mut last = Lsn::INVALID;
        // Shutdown checkpoints at many distances from a page's end.
        for round in 0..25 {
            let fill = 1 + round * 341 % 8192;
            server.sql(&format!("SELECT pg_logical_emit_message(true, 'fill', repeat('x', {fill}))")).await;
            let checkpoint = stop(&mut server).await;
            server.stop(Signal::INT);
            compare_with_waldump(&server, &checkpoint);
            assert!(checkpoint.start > last && checkpoint.end > checkpoint.start);
            last = checkpoint.end;
            server.start(StartAs::Primary, &Recovery::default()).await;
        }
    }
}

server_test! {
    async fn a_diverged_standby_with_a_higher_position_proves_nothing() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        // Cut off, promoted, and further than the primary ever was.
        let signals = standby.signals();
        point_to(&standby.spec, &Recovery::default(), signals).await.unwrap();
        standby.wait_for("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'", "0").await;
        let signals = standby.signals();
        promote(&standby.spec, &mut standby.client, signals, PATIENCE).await.unwrap();
        standby.fill(200_000).await;
        primary.sql("CREATE TABLE public.lost AS SELECT 1 AS i").await;
        let checkpoint = stop(&mut primary).await;
        let position = standby.client.sample().await.unwrap().position();
        assert!(position > checkpoint.end, "{position} is not beyond {checkpoint}");
        let verdict = holds(&standby.spec.data_dir, &checkpoint, position).unwrap();
        assert!(matches!(verdict, Possession::Different { .. }), "{verdict:?}");
    }
}

server_test! {
    async fn a_copy_whose_wal_differs_on_the_same_timeline_proves_nothing() {
        let root = scratch();
        let mut primary = Server::primary(root.path(), "a").await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        standby.stop(Signal::INT);
        // Started as a primary without a promotion, as no agent does: the same timeline number with other contents.
        standby.start(StartAs::Primary, &Recovery::default()).await;
        standby.fill(200_000).await;
        primary.sql("CREATE TABLE public.lost AS SELECT 1 AS i").await;
        let checkpoint = stop(&mut primary).await;
        let position = standby.client.sample().await.unwrap().position();
        assert!(position > checkpoint.end);
        let verdict = holds(&standby.spec.data_dir, &checkpoint, position).unwrap();
        assert!(matches!(verdict, Possession::Different { .. }), "{verdict:?}");
    }
}
