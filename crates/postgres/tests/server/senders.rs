use pgbaton_postgres::{held_up_senders, wait_shut_down};
use pgbaton_sys::proctree::with_working_directory;
use pgbaton_sys::{Pid, Signal};
use rustix::process::kill_process;

use crate::common::{PATIENCE, Server, scratch, server_test};

/// How often is looked.
const LOOK: std::time::Duration = std::time::Duration::from_millis(10);

server_test! {
    async fn a_sender_holds_a_shutdown_up_while_its_standby_takes_nothing() {
        let root = scratch();
        let mut primary = Server::new(root.path(), "a");
        // On a slow machine the standby stands still for longer than a sender usually waits for it.
        primary.spec.parameters.insert("wal_sender_timeout".into(), "0".into());
        let mut primary = primary.bootstrap().await;
        let mut standby = Server::standby_of(root.path(), "b", &mut primary).await;
        let sender = primary.sql("SELECT pid FROM pg_stat_replication").await;
        let receiver = standby.sql("SELECT pid FROM pg_stat_wal_receiver").await;
        let [sender, receiver] = [sender, receiver].map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap());
        let data_dir = primary.spec.data_dir.clone();
        assert!(with_working_directory(&data_dir).unwrap().contains(&sender));
        assert_eq!(held_up_senders(&data_dir).unwrap(), []);

        // More than the sockets hold, so that the shutdown does not get to its checkpoint.
        kill_process(receiver, Signal::STOP).unwrap();
        let more = "SELECT pg_logical_emit_message(false, 'a', repeat('b', 1000000)) FROM generate_series(1, 32)";
        primary.sql(more).await;
        held_up(&data_dir, &[sender]).await;
        nothing_is_sent(&mut primary).await;
        primary.client.disconnect();
        primary.kill(Signal::INT);
        assert!(wait_shut_down(&data_dir, LOOK * 20).await.is_err(), "nothing held it up");
        held_up(&data_dir, &[sender]).await;
        while held_up_senders(&data_dir).unwrap() == [sender] {
            kill_process(sender, Signal::TERM).unwrap();
            // waits: gives the process time to take the signal
            tokio::time::sleep(LOOK).await;
        }
        wait_shut_down(&data_dir, PATIENCE).await.unwrap();
        kill_process(receiver, Signal::CONT).unwrap();
        primary.stop(Signal::INT);

        // Nothing is left to be sent, but the confirmation of the checkpoint is missing.
        primary.start(pgbaton_postgres::StartAs::Primary, &pgbaton_postgres::Recovery::default()).await;
        standby.wait_for("SELECT status FROM pg_stat_wal_receiver", "streaming").await;
        primary.wait_for("SELECT flush_lsn = pg_current_wal_flush_lsn() FROM pg_stat_replication", "t").await;
        let receiver = standby.sql("SELECT pid FROM pg_stat_wal_receiver").await.parse().unwrap();
        let receiver = Pid::from_raw(receiver).unwrap();
        primary.client.disconnect();
        kill_process(receiver, Signal::STOP).unwrap();
        primary.kill(Signal::INT);
        wait_shut_down(&data_dir, PATIENCE).await.unwrap();
        assert_eq!(held_up_senders(&data_dir).unwrap().len(), 1);
        kill_process(receiver, Signal::CONT).unwrap();
        primary.stop(Signal::INT);
        assert_eq!(held_up_senders(&data_dir).unwrap(), []);
    }
}

/// In so many looks at what was sent there must be no difference. The kernel lets its buffers grow for a while, and on a busy machine takes
/// its time with that; what is sent later lets the shutdown pass.
const LOOKS_WITHOUT_CHANGE: u32 = 200;

async fn nothing_is_sent(primary: &mut Server) {
    let (mut last, mut same) = (String::new(), 0);
    for _ in 0..4000 {
        let sent = primary.sql("SELECT sent_lsn FROM pg_stat_replication").await;
        same = if sent == last { same + 1 } else { 0 };
        if same == LOOKS_WITHOUT_CHANGE {
            return;
        }
        last = sent;
        // waits: a short pause between two looks at how far the sender is
        tokio::time::sleep(LOOK).await;
    }
    panic!("it still sends at {last}");
}

async fn held_up(data_dir: &std::path::Path, expected: &[Pid]) {
    for _ in 0..4000 {
        if held_up_senders(data_dir).unwrap() == expected {
            return;
        }
        // waits: a short pause between two looks at the kernel's tables
        tokio::time::sleep(LOOK).await;
    }
    panic!("{:?} hold it up, not {expected:?}", held_up_senders(data_dir).unwrap());
}
