use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use pgbaton_postgres::{
    HostPort, Installation, Raised, Recovery, StartAs, ToolOption, Upstream, append_pg_hba, has_standby_signal, initdb,
    prepare_start, write_config,
};
use pgbaton_sys::Signal;

use crate::common::{PATIENCE, Server, scratch, server_test};

server_test! {
    async fn settings_survive_a_round_trip_through_a_live_server() {
        let root = scratch();
        let mut server = Server::new(root.path(), "a");
        let prefix = "it's \\ 'quoted' \\n # %m\n";
        server.spec.parameters.insert("log_line_prefix".into(), prefix.into());
        server.spec.parameters.insert("custom.value".into(), "=;--\"".into());
        server.spec.scope = "it's a scope".into();
        let mut server = server.bootstrap().await;
        assert_eq!(server.sql("SHOW log_line_prefix").await, prefix);
        assert_eq!(server.sql("SHOW custom.value").await, "=;--\"");
        assert_eq!(server.sql("SHOW cluster_name").await, "it's a scope");
        assert_eq!(server.sql("SHOW wal_retrieve_retry_interval").await, "500ms");
        // A connection string with everything that needs quotes, twice.
        let upstream = Upstream { address: HostPort::new("no'where\\", 1), slot: Some("a".into()) };
        server.spec.pgpass = root.path().join("pass 'file'\\");
        let written = write_config(&server.spec, &Recovery::from_upstream(upstream.clone())).unwrap();
        assert!(written.changed);
        server.kill(Signal::HUP);
        let expected = pgbaton_postgres::primary_conninfo(&server.spec, &upstream.address);
        server.wait_for("SHOW primary_conninfo", &expected).await;
        assert_eq!(server.sql("SHOW primary_slot_name").await, "a");
        assert_eq!(server.sql("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL").await, "0");
    }
}

server_test! {
    async fn no_secret_is_in_an_argument_a_log_or_a_file_that_others_read() {
        let root = scratch();
        let mut server = Server::primary(root.path(), "a").await;
        let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", server.pid().as_raw_nonzero())).unwrap();
        for password in ["super:s", "repl:pass", "rewind-pass", "SCRAM-SHA-256"] {
            assert!(!proc("cmdline").contains(password) && !proc("environ").contains(password), "{password}");
            assert!(!server.log().contains(password), "{password} is in the log:\n{}", server.log());
        }
        assert!(!proc("environ").contains("PATRONI_") && !proc("environ").contains("NOTIFY_SOCKET"));
        let pgpass = fs::metadata(&server.spec.pgpass).unwrap();
        assert_eq!(pgpass.permissions().mode() & 0o777, 0o600);
        assert!(!server.spec.file("pgbaton.password").exists());
        // The roles can do what they are for.
        let may = "SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin";
        assert_eq!(server.sql(may).await, "postgres,replicator,rewinder");
        let read = "SELECT has_function_privilege('rewinder', 'pg_read_binary_file(text)', 'execute')";
        assert_eq!(server.sql(read).await, "t");
        // Doing it again changes nothing.
        server.client.create_users(&server.spec.authentication).await.unwrap();
    }
}

server_test! {
    async fn a_standby_is_not_started_with_less_than_its_primary_has() {
        let root = scratch();
        let mut primary = Server::new(root.path(), "a");
        primary.spec.parameters.insert("max_connections".into(), "150".into());
        let mut primary = primary.bootstrap().await;
        let mut standby = Server::new(root.path(), "b");
        standby.spec.parameters.insert("max_connections".into(), "50".into());
        let mut standby = standby.clone_from(&mut primary).await;
        assert_eq!(standby.sql("SHOW max_connections").await, "150");
        assert!(has_standby_signal(&standby.spec.data_dir));
        let control = standby.control();
        let prepared = prepare_start(&standby.spec, StartAs::Standby, &Recovery::default(), &control).unwrap();
        let [name, configured, running] = ["max_connections", "50", "150"].map(str::to_owned);
        assert_eq!(prepared.raised, [Raised { name, configured, running }]);
    }
}

server_test! {
    async fn initdb_takes_options_and_refuses_what_would_break_it() {
        let root = scratch();
        let mut server = Server::new(root.path(), "a");
        let option = |name: &str, value: &str| ToolOption::Value(name.into(), value.into());
        let refused = initdb(&server.spec, &[option("pgdata", "/tmp")], PATIENCE).await.unwrap_err();
        assert!(refused.to_string().contains("\"pgdata\" is not allowed for initdb"), "{refused}");
        assert!(!server.spec.data_dir.exists());
        let failed = initdb(&server.spec, &[option("encoding", "nonsense")], PATIENCE).await.unwrap_err();
        assert!(failed.to_string().contains("nonsense"), "{failed}");
        let missing = Installation::in_dir("/nowhere");
        assert!(missing.version().await.unwrap_err().to_string().contains("version"));
        // What the failure left does not stand in the way.
        let flag = |name: &str| ToolOption::Flag(name.into());
        let options = [flag("data-checksums"), flag("no-sync"), option("encoding", "UTF8")];
        initdb(&server.spec, &options, PATIENCE).await.unwrap();
        assert!(server.control().data_checksums);
        server.spec.pg_hba = None;
        append_pg_hba(&server.spec, &["local all nobody reject".to_owned()]).unwrap();
        let hba = fs::read_to_string(server.spec.file("pg_hba.conf")).unwrap();
        assert!(hba.contains("trust") && hba.ends_with("local all nobody reject\n"));
        let again = initdb(&server.spec, &options, PATIENCE).await.unwrap_err();
        assert!(again.to_string().contains(&server.control().system_id.to_string()), "{again}");
        server.spec.parameters = BTreeMap::new();
        server.start(StartAs::Primary, &Recovery::default()).await;
        assert_eq!(server.sql("SHOW server_encoding").await, "UTF8");
    }
}
