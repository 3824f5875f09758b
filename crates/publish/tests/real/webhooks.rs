//! Events that are posted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use pgbaton_publish::{ConsumerSettings, CourierSettings, Done, Secret, Settings, WebhookSettings, once};
use pgbaton_testkit::wait;
use pgbaton_types::chain;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use crate::hook::{Answer, Got, Hook};
use crate::{LIMIT, Running, courier, view};

fn webhook(hook: &Hook, scheme: &str, authority: Option<PathBuf>) -> ConsumerSettings {
    ConsumerSettings::Webhook(WebhookSettings {
        url: format!("{scheme}://localhost:{}/there?x=1", hook.address.port()),
        secret: Some(Secret::Text("s3cret".to_owned())),
        authority,
    })
}

fn settings(courier: &CourierSettings) -> Settings {
    Settings { targets: Vec::new(), couriers: vec![courier.clone()] }
}

fn posts(outbox: &Path, hook: &Hook) -> CourierSettings {
    courier(outbox, webhook(hook, "http", None))
}

async fn wait_for_events(hook: &Hook, count: usize) {
    wait::until_async("the events", LIMIT, || async {
        let found = hook.events();
        if found.len() >= count { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

async fn wait_for_number(hook: &Hook, number: u64) {
    wait::until_async("the event's number", LIMIT, || async {
        let found = hook.events();
        if found.iter().any(|(found, _)| *found == number) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

/// Whoever knows the secret can tell that the body is genuine, and when it was sent.
fn verify(got: &Got) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
    let signed = [got.headers["x-pgbaton-timestamp"].as_bytes(), b".", &got.body].concat();
    let hex = got.headers["x-pgbaton-signature"].strip_prefix("sha256=").unwrap();
    let tag: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    hmac::verify(&key, &signed, &tag).unwrap();
    assert!(hmac::verify(&key, &[signed, b"x".to_vec()].concat(), &tag).is_err());
}

#[tokio::test]
async fn what_is_not_taken_comes_again_with_its_number_and_the_next_wait() {
    let directory = tempfile::tempdir().unwrap();
    let answers = [Answer::Status(500), Answer::Close, Answer::Status(302), Answer::Status(204)];
    let hook = Hook::start(answers.to_vec());
    let running = Running::start(settings(&posts(&directory.path().join("outbox"), &hook)), view(5, 10, "a"));
    wait_for_events(&hook, 1).await;
    running.show(view(8, 20, "b"));
    wait_for_events(&hook, 6).await;
    running.stop().await;
    let (first, promoted, failover) = ("primary_register", "standby_promote", "repmgrd_failover_promote");
    let wanted = [(1, first), (1, first), (1, first), (1, first), (2, promoted), (3, failover)];
    assert_eq!(hook.events(), wanted.map(|(number, name)| (number, name.to_owned())));
    let got = hook.got();
    for got in &got {
        verify(got);
        assert_eq!(got.path, "/there?x=1");
        assert_eq!(got.headers["x-pgbaton-sequence"], got.event().sequence.to_string());
        assert_eq!(got.headers["x-pgbaton-event"], got.event().event.as_str());
    }
    let last = got[5].event();
    let names = (last.member.as_str(), last.former.as_ref().map(pgbaton_types::MemberName::as_str));
    assert_eq!(names, ("b", Some("a")));
    assert_eq!(last.details, "standby b was promoted to primary, old primary a marked as failed");
    assert_eq!(
        (last.record.epoch.map(|epoch| epoch.0), last.record.primary.unwrap().conninfo.as_str()),
        (Some(8), "host=10.0.0.1 port=5432")
    );
}

#[tokio::test]
async fn a_server_that_is_silent_keeps_nobody_else_up_and_what_waits_comes_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (silent, well) =
        (Hook::start(vec![Answer::Never, Answer::Never, Answer::Status(200)]), Hook::start(vec![Answer::Status(200)]));
    let mut slow = posts(&directory.path().join("slow"), &silent);
    // Only who is silent takes so long: an answer that comes later is none, and the event would come once more.
    slow.within = Duration::from_secs(2);
    let couriers = vec![slow, posts(&directory.path().join("well"), &well)];
    let running = Running::start(Settings { targets: Vec::new(), couriers }, view(5, 10, "a"));
    wait_for_events(&well, 1).await;
    running.show(view(8, 20, "b"));
    wait_for_events(&well, 3).await;
    wait_for_number(&silent, 3).await;
    running.stop().await;
    let numbers: Vec<u64> = silent.events().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 1, 1, 2, 3]);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let hook = Hook::start(vec![Answer::Endless, Answer::Status(200)]);
    let running = Running::start(settings(&posts(&directory.path().join("outbox"), &hook)), view(5, 10, "a"));
    wait_for_events(&hook, 1).await;
    running.show(view(8, 20, "b"));
    wait_for_events(&hook, 3).await;
    running.stop().await;
    let numbers: Vec<u64> = hook.events().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn who_was_away_gets_the_difference_and_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let hook = Hook::start(vec![Answer::Status(200)]);
    let posts = posts(&directory.path().join("outbox"), &hook);
    let delivered = async |view| match once(settings(&posts), view).await.pop().unwrap().result.unwrap() {
        Done::Delivered(events) => events,
        other @ Done::Record(_) => panic!("{other:?}"),
    };
    assert_eq!(delivered(view(5, 10, "a")).await, 1);
    assert_eq!(delivered(view(5, 11, "a")).await, 0);
    assert_eq!(delivered(view(90, 200, "c")).await, 2);
    assert_eq!(delivered(view(8, 20, "b")).await, 0, "an older one has not happened");
    let source = |number: usize| hook.got()[number].event().source;
    assert_eq!(source(0), source(2));
    assert!(source(0).starts_with("me/"));
}

#[tokio::test]
async fn one_that_is_given_up_is_dropped_and_the_next_one_comes() {
    let directory = tempfile::tempdir().unwrap();
    let hook = Hook::start(vec![Answer::Status(500)]);
    let mut posts = posts(&directory.path().join("outbox"), &hook);
    posts.retry_for = Some(Duration::from_millis(250));
    let running = Running::start(settings(&posts), view(5, 10, "a"));
    wait_for_events(&hook, 2).await;
    running.show(view(8, 20, "b"));
    wait_for_number(&hook, 2).await;
    running.stop().await;
    let numbers: Vec<u64> = hook.events().into_iter().map(|(number, _)| number).collect();
    assert!(numbers.is_sorted() && numbers.starts_with(&[1, 1]), "{numbers:?}");
}

#[tokio::test]
async fn https_is_spoken_with_whom_the_authority_has_signed_only() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let hook = Hook::start_with(vec![Answer::Status(200)], Some(tls));
    let said = async |authority: Option<PathBuf>, outbox: &str| {
        let courier = courier(&directory.path().join(outbox), webhook(&hook, "https", authority));
        let result = once(settings(&courier), view(5, 10, "a")).await.pop().unwrap().result;
        result.map_err(|error| chain(error.as_ref()))
    };
    let unknown = said(None, "unknown").await.unwrap_err();
    assert!(
        unknown.starts_with("event 1 (primary_register): no answer: ") && unknown.contains("UnknownIssuer"),
        "{unknown}"
    );
    let nowhere = directory.path().join("nowhere");
    let wanted = format!("cannot read certificates in {}", nowhere.display());
    assert!(said(Some(nowhere), "nowhere").await.unwrap_err().starts_with(&wanted));
    assert!(hook.got().is_empty());
    let authority = directory.path().join("authority.pem");
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    assert_eq!(said(Some(authority), "known").await.unwrap(), Done::Delivered(1));
    verify(&hook.got()[0]);
}

#[tokio::test]
async fn what_does_not_work_is_said_with_where() {
    let directory = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hook = Hook::start(vec![Answer::Status(500)]);
    let said = async |courier: CourierSettings| {
        let result = once(settings(&courier), view(5, 10, "a")).await.pop().unwrap().result;
        chain(result.unwrap_err().as_ref())
    };
    let posts = |name: &str| posts(&directory.path().join(name), &hook);
    assert_eq!(
        said(posts("refused")).await,
        "event 1 (primary_register): the server answers 500 Internal Server Error"
    );
    let mut nobody = posts("nobody");
    nobody.consumer = ConsumerSettings::Webhook(WebhookSettings {
        url: format!("http://127.0.0.1:{port}/"),
        secret: None,
        authority: None,
    });
    let text = said(nobody).await;
    assert!(
        text.starts_with("event 1 (primary_register): no answer: ") && text.contains("Connection refused"),
        "{text}"
    );
    let mut odd = posts("odd");
    let url = "http://[::1/t0psecret".to_owned();
    odd.consumer = ConsumerSettings::Webhook(WebhookSettings { url, secret: None, authority: None });
    let text = said(odd).await;
    assert!(text.starts_with("the URL cannot be used: ") && !text.contains("t0psecret"), "{text}");
    let mut secret = posts("secret");
    let path = directory.path().join("no-secret");
    secret.consumer = ConsumerSettings::Webhook(WebhookSettings {
        url: "http://127.0.0.1/".to_owned(),
        secret: Some(Secret::File(path.clone())),
        authority: None,
    });
    let text = said(secret).await;
    assert!(text.starts_with(&format!("cannot read the secret in {}", path.display())), "{text}");
}
