//! etcd's own command line, against both: it says the same.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use pgbaton_store_embedded::ServerTls;

use crate::pair::{Pair, Release, beside_each};

/// Runs `etcdctl` and gives what it says, with the numbers that are each store's own replaced.
fn say(endpoint: &str, user: Option<&str>, arguments: &[&str], input: &str) -> String {
    let user = user.map(|user| ["--user", user]);
    say_with(endpoint, user.as_ref().map_or(&[], |user| &user[..]), arguments, input)
}

fn say_with(endpoint: &str, options: &[&str], arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("/usr/bin/etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "--command-timeout=20s"]).args(options);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code();
    format!("{code:?}\n{}\n{}", without_own(&out), without_own(&err))
}

/// Numbers of leases, members and clusters are random, sixteen hexadecimal digits or fewer in their own lines.
fn without_own(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_hexdigit());
        if bare.len() >= 14 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            "ID".to_owned()
        } else {
            word.to_owned()
        }
    };
    // The last is etcdctl's own log: when and with whom it failed.
    let own = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\"", "\"Lease\"", "{\"level\":"];
    let lines = text.lines().filter(|line| !own.iter().any(|own| line.starts_with(own)));
    lines.map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

/// The number in "lease 32695410dcc0ca06 granted with TTL(60s)".
fn granted(endpoint: &str) -> String {
    let output = Command::new("/usr/bin/etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint, "lease", "grant", "60"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(1).unwrap_or_else(|| panic!("{text}")).to_owned()
}

beside_each!(etcdctl_says_the_same_of_both);

async fn etcdctl_says_the_same_of_both(release: Release) {
    let pair = Pair::start(release).await;
    let endpoints = pair.endpoints();
    let steps: &[(&[&str], &str)] = &[
        (&["put", "a", "1"], ""),
        (&["put", "a", "2", "--prev-kv"], ""),
        (&["put", "b/1", "x"], ""),
        (&["put", "b/2", "y"], ""),
        (&["get", "a"], ""),
        (&["get", "none"], ""),
        (&["get", "b/", "--prefix", "-w", "fields"], ""),
        (&["get", "b/", "--prefix", "--keys-only", "--limit=1"], ""),
        (&["get", "a", "--rev=2"], ""),
        (&["get", "a", "--rev=99"], ""),
        (&["txn"], "value(\"a\") = \"2\"\n\nput a 3\nget b/1\n\nput a 4\n\n"),
        (&["txn"], "mod(\"a\") = \"1\"\n\nput a 5\n\nget a\ndel b/1\n\n"),
        (&["del", "b/", "--prefix", "--prev-kv"], ""),
        (&["compaction", "4"], ""),
        (&["get", "a", "--rev=2"], ""),
        (&["lease", "timetolive", "1234"], ""),
        (&["lease", "revoke", "1234"], ""),
        (&["lease", "keep-alive", "--once", "1234"], ""),
        (&["put", "--lease=1234", "c", "1"], ""),
        (&["role", "list"], ""),
    ];
    for (arguments, input) in steps {
        let [expected, found] = endpoints.each_ref().map(|endpoint| say(endpoint, None, arguments, input));
        // What is not served is unimplemented here, and real there.
        if arguments[0] == "role" {
            assert!(found.starts_with("Some(1)") || found.contains("nimplemented"), "{found}");
        } else {
            assert_eq!(found, expected, "etcdctl {arguments:?}");
        }
    }
    let leases = endpoints.each_ref().map(|endpoint| granted(endpoint));
    for arguments in [
        &["put", "d", "1", "--lease"][..],
        &["lease", "timetolive", "--keys"],
        &["lease", "keep-alive", "--once"],
        &["lease", "revoke"],
        &["get", "d"],
    ] {
        let [expected, found] = [0, 1].map(|one| {
            let own: Vec<&str> =
                arguments.iter().copied().chain((arguments[0] != "get").then_some(leases[one].as_str())).collect();
            say(&endpoints[one], None, &own, "")
        });
        // The time that is left may differ by a second.
        let settled =
            |text: String| text.replace("remaining(59s)", "remaining(60s)").replace("remaining(58s)", "remaining(60s)");
        assert_eq!(settled(found), settled(expected), "etcdctl {arguments:?}");
    }
    for arguments in [&["endpoint", "status"][..], &["endpoint", "health"], &["member", "list"]] {
        for endpoint in &endpoints {
            let said = say(endpoint, None, arguments, "");
            assert!(said.starts_with("Some(0)"), "etcdctl {arguments:?} at {endpoint}: {said}");
        }
    }
    pair.stop().await;
}

beside_each!(etcdctl_watches_both);

async fn etcdctl_watches_both(release: Release) {
    let pair = Pair::start(release).await;
    let seen = pair.endpoints().map(|endpoint| {
        for value in ["1", "2"] {
            say(&endpoint, None, &["put", "w/a", value], "");
        }
        say(&endpoint, None, &["del", "w/a"], "");
        let mut watch = Command::new("/usr/bin/etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoint, "watch", "w/", "--prefix", "--rev=2", "--prev-kv"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let mut seen = Vec::new();
        while !seen.contains(&"DELETE".to_owned()) {
            seen.push(lines.next().expect("the watch goes on").unwrap());
        }
        watch.kill().unwrap();
        watch.wait().unwrap();
        seen
    });
    assert_eq!(seen[1], seen[0]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_needs_the_password_where_there_is_one() {
    let (store, endpoint, _directory) = crate::pair::with("secret", None).await;
    let refused = say(&endpoint, None, &["put", "a", "1"], "");
    assert!(!refused.starts_with("Some(0)") && refused.contains("user name is empty"), "{refused}");
    let wrong = say(&endpoint, Some("me:wrong"), &["put", "a", "1"], "");
    assert!(!wrong.starts_with("Some(0)") && wrong.contains("authentication failed"), "{wrong}");
    assert_eq!(say(&endpoint, Some("me:secret"), &["put", "a", "1"], ""), "Some(0)\nOK\n");
    assert_eq!(say(&endpoint, Some("me:secret"), &["get", "a"], ""), "Some(0)\na\n1\n");
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_comes_in_with_its_certificate_and_not_without() {
    let authority = Authority::new();
    let (own, other) = (authority.signs("127.0.0.1"), Authority::new().signs("127.0.0.1"));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let trusted = file("ca.pem", &authority.certificate.pem());
    let [cert, key] = [file("cert.pem", &own.0), file("key.pem", &own.1)];
    let [wrong_cert, wrong_key] = [file("wrong.pem", &other.0), file("wrong-key.pem", &other.1)];
    let tls = ServerTls {
        certificate: own.0.clone().into_bytes(),
        key: own.1.clone().into_bytes(),
        authority: Some(authority.certificate.pem().into_bytes()),
    };
    let (store, endpoint, _data) = crate::pair::with("secret", Some(tls)).await;
    let secure = format!("https://{endpoint}");
    let user = ["--user", "me:secret"];
    let all = [&user[..], &["--cacert", &trusted, "--cert", &cert, "--key", &key]].concat();
    assert_eq!(say_with(&secure, &all, &["put", "a", "1"], ""), "Some(0)\nOK\n");
    assert_eq!(say_with(&secure, &all, &["get", "a"], ""), "Some(0)\na\n1\n");
    let members = say_with(&secure, &all, &["member", "list"], "");
    assert!(members.contains(&secure), "not where it is served: {members}");
    let refused = [
        // In plain text, without a certificate, with one that nobody here signed, and by who trusts somebody else.
        say_with(&endpoint, &user, &["get", "a"], ""),
        say_with(&secure, &[&user[..], &["--cacert", &trusted]].concat(), &["get", "a"], ""),
        say_with(
            &secure,
            &[&user[..], &["--cacert", &trusted, "--cert", &wrong_cert, "--key", &wrong_key]].concat(),
            &["get", "a"],
            "",
        ),
        say_with(
            &secure,
            &[&user[..], &["--cacert", &wrong_cert, "--cert", &cert, "--key", &key]].concat(),
            &["get", "a"],
            "",
        ),
    ];
    for said in refused {
        assert!(!said.starts_with("Some(0)"), "let in: {said}");
    }
    store.shutdown().await;
}

/// Who signs certificates.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// A certificate for this address, and its key.
    fn signs(&self, address: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![address.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}
