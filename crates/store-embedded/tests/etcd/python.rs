//! A client library of another language, against both: it is answered the same.

use std::path::Path;
use std::process::Command;

use pgbaton_testkit::Venv;

use crate::pair::{Pair, Release, beside_each};

/// The library, and what it was made with.
const PACKAGES: [&str; 4] = ["etcd3==0.12.0", "protobuf==3.20.3", "grpcio==1.62.3", "tenacity==6.3.1"];

beside_each!(pythons_client_is_answered_the_same_by_both);

async fn pythons_client_is_answered_the_same_by_both(release: Release) {
    let environment = Venv::install(Path::new(env!("CARGO_TARGET_TMPDIR")), "python-etcd3", &PACKAGES).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/etcd/client.py");
    let pair = Pair::start(release).await;
    let said = pair.endpoints().map(|endpoint| {
        let port = endpoint.rsplit(':').next().unwrap().to_owned();
        let output = Command::new(environment.program("python")).args([script, &port]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{endpoint}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(said[0].lines().count() > 15, "{}", said[0]);
    assert_eq!(said[1], said[0]);
    pair.stop().await;
}
