//! What good files mean: the example, directories, the environment, and which value wins.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pgbaton_config::{Effective, LoadError, ToolOption, load, load_text};

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_example_is_complete_and_without_findings() {
    let file = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/examples/member.yml");
    let loaded = load(Some(&file), &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let local = &loaded.local;
    assert_eq!((local.name.as_str(), local.scope.as_str()), ("pg-1", "demo"));
    assert_eq!(local.restapi.api_url(), "http://10.0.0.1:8008/patroni");
    assert_eq!(local.peer_credentials, local.restapi.authentication);
    let store = local.store.embedded().expect("the embedded store");
    let network = store.network.as_ref().expect("the raft section");
    assert_eq!(network.bind_addr, network.self_addr);
    assert_eq!(network.partner_addrs.len(), 2);
    assert!(!store.is_single());
    let bootstrap = local.bootstrap.as_ref().expect("the bootstrap section");
    let arguments: Vec<_> = bootstrap.initdb.iter().map(ToolOption::argument).collect();
    assert_eq!(arguments, ["--encoding=UTF8", "--data-checksums"]);
    assert_eq!(bootstrap.pg_hba.len(), 3);
    assert_eq!(local.postgresql.authentication.rewind.as_ref().expect("rewind").username, "rewind");
    let effective = Effective::of(local, &loaded.initial_dynamic);
    assert_eq!(effective.cluster.timing.ttl, Duration::from_secs(10));
    assert!(effective.use_pg_rewind && effective.use_slots);
    assert_eq!(effective.parameters["log_checkpoints"], "on");
    assert_eq!(effective.parameters["wal_keep_size"], "128MB");
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("choose-"), "a password is in the debug text: {shown}");
}

const MINIMAL: &str = "
name: a
scope: s
restapi: {listen: '127.0.0.1'}
postgresql:
  listen: 127.0.0.1,10.0.0.1:6000
  data_dir: /data//x/
  authentication: {replication: {username: r}}
";

#[test]
fn a_silent_file_means_the_defaults() {
    let loaded = load_text("m.yml", MINIMAL).unwrap_or_else(|error| panic!("{error}"));
    let local = &loaded.local;
    let store = local.store.embedded().expect("the embedded store");
    assert_eq!(store.data_dir, Path::new("/data/a.raft"));
    assert!(store.is_single() && local.bootstrap.is_none());
    assert_eq!((local.namespace.as_str(), local.restapi.connect_address.port), ("service", 8008));
    assert_eq!(local.postgresql.connect_address.to_string(), "127.0.0.1:6000");
    assert_eq!((local.tags.no_failover, local.tags.failover_priority), (false, 1));
    let timing = loaded.initial_dynamic.cluster.timing;
    let seconds = [timing.ttl, timing.loop_wait, timing.retry_timeout].map(|d| d.as_secs());
    assert_eq!(seconds, [10, 1, 4]);
    assert!(loaded.initial_dynamic.document.is_empty());
}

#[test]
fn local_lies_over_dynamic_and_controlled_parameters_do_not() {
    let text = format!(
        "{MINIMAL}  parameters: {{Work_Mem: 8MB, max_connections: 7, log_file_mode: 0600, x: on}}
  use_pg_rewind: false
  use_slots: false
bootstrap:
  dcs:
    postgresql:
      use_pg_rewind: true
      parameters: {{work_mem: 4MB, max_connections: 50, max_wal_senders: 1, port: 1}}
      pg_hba: [local all all trust]
"
    );
    let loaded = load_text("m.yml", &text).unwrap_or_else(|error| panic!("{error}"));
    let effective = Effective::of(&loaded.local, &loaded.initial_dynamic);
    let of = |name: &str| effective.parameters.get(name).map(String::as_str);
    assert_eq!(of("work_mem"), Some("8MB"));
    assert_eq!(of("max_connections"), Some("50"));
    assert_eq!(of("log_file_mode"), Some("0600"));
    assert_eq!((of("x"), of("port"), of("max_wal_senders")), (Some("on"), None, Some("10")));
    assert!(!effective.use_pg_rewind && effective.use_slots);
    assert_eq!(effective.pg_hba.as_deref(), Some(&["local all all trust".to_owned()][..]));
    let warned: Vec<_> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(
        warned,
        [
            "postgresql.parameters.max_connections",
            "postgresql.use_slots",
            "bootstrap.dcs.postgresql.parameters.max_wal_senders",
        ]
    );
}

#[test]
fn files_of_a_directory_are_merged_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("a file");
    write("10.yml", MINIMAL);
    write("20.yaml", "name: b\nscope: t\npostgresql: {listen: '10.0.0.9:1', pgpass: /p}\ntags: {x: 1}\n");
    write("30.yml", "postgresql: {pgpass: }\ntags: {nofailover: maybe}\n");
    write("notes.txt", "not: [yaml");
    let error = load(Some(directory.path()), &BTreeMap::new()).expect_err("nofailover: maybe");
    let LoadError::Invalid { findings } = &error else { panic!("{error}") };
    assert!(findings[0].file.ends_with("30.yml") && findings[0].line == 2, "{error}");
    write("30.yml", "postgresql: {pgpass: }\n");
    let loaded = load(Some(directory.path()), &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((loaded.local.name.as_str(), loaded.local.scope.as_str()), ("b", "t"));
    assert_eq!(loaded.local.postgresql.pgpass, None);
    assert_eq!(loaded.local.postgresql.listen.port, 1);
    assert_eq!(loaded.local.tags.published["x"], 1);
}

#[test]
fn the_environment_lies_over_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("m.yml");
    std::fs::write(&file, MINIMAL).expect("a file");
    let variables = environment(&[
        ("PATRONI_NAME", "from-env"),
        ("PATRONI_SCOPE", ""),
        ("PATRONI_SUPERUSER_USERNAME", "boss"),
        ("PATRONI_SUPERUSER_PASSWORD", "0600"),
        ("PATRONI_RESTAPI_USERNAME", "u"),
        ("PATRONI_RESTAPI_PASSWORD", "p"),
        ("PATRONI_POSTGRESQL_BIN_DIR", "/bins"),
        ("PATRONI_POSTGRESQL_BIN_PG_CTL", "pg_ctl15"),
        ("PATRONI_RAFT_SELF_ADDR", "127.0.0.1:1"),
        ("PATRONI_RAFT_PARTNER_ADDRS", "'127.0.0.1:2','127.0.0.1:3'"),
        ("PATRONI_LOGLEVEL", "debug"),
        ("PATRONI_NONSENSE", "x"),
        ("HOME", "/root"),
    ]);
    let loaded = load(Some(&file), &variables).unwrap_or_else(|error| panic!("{error}"));
    let local = &loaded.local;
    assert_eq!((local.name.as_str(), local.scope.as_str()), ("from-env", "s"));
    let superuser = &local.postgresql.authentication.superuser;
    assert_eq!(superuser.username, "boss");
    assert_eq!(superuser.password.as_ref().map(pgbaton_config::Secret::reveal), Some("0600"));
    assert_eq!(local.postgresql.bin_dir.as_deref(), Some(Path::new("/bins")));
    assert_eq!(local.postgresql.bin_name["pg_ctl"], "pg_ctl15");
    let store = local.store.embedded().expect("the embedded store");
    assert_eq!(store.network.as_ref().map(|network| network.partner_addrs.len()), Some(2));
    assert_eq!(local.log_level, pgbaton_config::LogLevel::Debug);
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(warning.message.contains("PATRONI_NONSENSE"), "{warning}");

    let error = load(Some(&file), &environment(&[("PATRONI_ZOOKEEPER_HOSTS", "a:1")])).expect_err("no store here");
    assert!(error.to_string().contains("environment variable PATRONI_ZOOKEEPER_HOSTS"), "{error}");
    let loaded = load(Some(&file), &environment(&[("PATRONI_ETCD3_HOSTS", "a:1,b")])).expect("a store");
    let pgbaton_config::StoreConfig::Etcd(etcd) = &loaded.local.store else { panic!("{:?}", loaded.local.store) };
    assert_eq!(etcd.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2379"]);
}

#[test]
fn without_a_file_the_environment_is_the_document() {
    let whole = environment(&[("PATRONI_CONFIGURATION", MINIMAL), ("PATRONI_NAME", "ignored")]);
    for path in [None, Some(Path::new("/does/not/exist.yml"))] {
        let loaded = load(path, &whole).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.local.name.as_str(), "a");
    }
    let error = load(None, &BTreeMap::new()).expect_err("nothing was given");
    assert!(matches!(error, LoadError::Nothing), "{error}");
}

#[test]
fn what_cannot_be_read_says_which() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("none.yml");
    let error = load(Some(&missing), &BTreeMap::new()).expect_err("no such file");
    assert!(matches!(error, LoadError::Read { .. }) && error.to_string().contains("none.yml"), "{error}");
    let error = load(Some(directory.path()), &BTreeMap::new()).expect_err("an empty directory");
    assert!(matches!(error, LoadError::NoFiles { .. }), "{error}");
    for text in ["", "- a\n", "text\n"] {
        let error = load_text("m.yml", text).expect_err("no map");
        assert!(error.to_string().contains("must be a map of keys and values"), "{text:?}: {error}");
    }
}
