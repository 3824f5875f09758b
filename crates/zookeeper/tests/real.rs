//! The client with a real `ZooKeeper`.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use pgbaton_testkit::{ZooKeeper, wait};
use pgbaton_zookeeper::{Acl, Client, Code, Lifetime, Options, ZooKeeperError};
use rustix::process::Signal;

/// Longest wait for a state.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest time for one request, but where it is to be too short.
const WITHIN: Duration = Duration::from_secs(5);

fn options(server: &ZooKeeper, session: Duration) -> Options {
    Options { servers: vec![server.address()], session, digest: None }
}

/// A client of a server that answers.
async fn ready(server: &ZooKeeper, options: Options) -> Client {
    let mut client = Client::new(options);
    wait::until_async("ZooKeeper to answer", LIMIT, || async {
        let mut client = Client::new(self::options(server, Duration::from_secs(5)));
        let asked = client.get("/", WITHIN).await.map(drop).map_err(|error| format!("{error}: {}", server.output()));
        client.close(WITHIN).await;
        asked
    })
    .await
    .unwrap();
    client.get("/", WITHIN).await.unwrap();
    client
}

fn code<T: std::fmt::Debug>(result: Result<T, ZooKeeperError>) -> Code {
    let error = result.unwrap_err();
    error.code().unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test]
async fn nodes_are_made_read_and_changed_by_their_version() {
    let server = ZooKeeper::started().unwrap();
    let mut client = ready(&server, options(&server, Duration::from_secs(5))).await;
    let (path, kind) = ("/a/b/c", Lifetime::Persistent);
    assert_eq!(client.get(path, WITHIN).await.unwrap(), None);
    assert_eq!(code(client.create(path, b"1", kind, Acl::Open, WITHIN).await), Code::NoNode);
    client.create_with_parents(path, b"1", kind, Acl::Open, WITHIN).await.unwrap();
    assert_eq!(code(client.create_with_parents(path, b"1", kind, Acl::Open, WITHIN).await), Code::NodeExists);
    let first = client.get(path, WITHIN).await.unwrap().unwrap();
    assert_eq!((first.data.as_slice(), first.own), (b"1".as_slice(), false));
    client.set(path, b"2", first.version, WITHIN).await.unwrap();
    let error = client.set(path, b"3", first.version, WITHIN).await.unwrap_err();
    assert_eq!(error.to_string(), "write /a/b/c: the node was changed meanwhile");
    assert_eq!(client.get(path, WITHIN).await.unwrap().unwrap().data, b"2");
    assert_eq!(client.get("/a", WITHIN).await.unwrap().unwrap().data, b"");
}

#[tokio::test]
async fn an_ephemeral_node_goes_with_its_session() {
    let server = ZooKeeper::started().unwrap();
    let mut watcher = ready(&server, options(&server, Duration::from_secs(5))).await;
    let mut client = Client::new(options(&server, Duration::from_secs(5)));
    let kind = Lifetime::Ephemeral;
    client.create("/one", b"", kind, Acl::Open, WITHIN).await.unwrap();
    assert_eq!(client.session_time(), Duration::from_secs(5));
    assert!(client.get("/one", WITHIN).await.unwrap().unwrap().own);
    assert!(!watcher.get("/one", WITHIN).await.unwrap().unwrap().own);
    assert_eq!(code(client.create("/one/below", b"", kind, Acl::Open, WITHIN).await), Code::NoChildrenForEphemerals);
    client.close(WITHIN).await;
    assert_eq!(watcher.get("/one", WITHIN).await.unwrap(), None, "it goes with the end of its session");

    // In the middle of a request, which takes its connection with it.
    let mut client = Client::new(options(&server, Duration::from_secs(20)));
    client.create("/one", b"", kind, Acl::Open, WITHIN).await.unwrap();
    tokio::select! {
        biased;
        answer = client.get("/one", WITHIN) => panic!("faster than it was given up: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    client.close(WITHIN).await;
    assert_eq!(watcher.get("/one", WITHIN).await.unwrap(), None, "it goes with the end of its session");

    let mut silent = Client::new(options(&server, Duration::from_millis(500)));
    silent.create("/two", b"", kind, Acl::Open, WITHIN).await.unwrap();
    loop {
        // waits: for a session to run out of which nothing is heard
        tokio::time::sleep(Duration::from_millis(50)).await;
        if watcher.get("/two", WITHIN).await.unwrap().is_none() {
            break;
        }
    }
    // The server has closed the connection; the session behind it is no more.
    let errors = [silent.ping(WITHIN).await.unwrap_err(), silent.ping(WITHIN).await.unwrap_err()];
    assert!(matches!(errors, [ZooKeeperError::Broken { .. }, ZooKeeperError::Expired]), "{errors:?}");
    silent.create("/two", b"", kind, Acl::Open, WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_over_a_restart_and_a_server_that_is_away_is_named() {
    let mut server = ZooKeeper::started().unwrap();
    // Longer than a restart takes, on a slow machine too.
    let mut client = ready(&server, options(&server, Duration::from_secs(60))).await;
    client.create("/one", b"", Lifetime::Ephemeral, Acl::Open, WITHIN).await.unwrap();
    server.signal(Signal::STOP).unwrap();
    let error = client.ping(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} does not answer within 200 ms", server.address()));
    server.kill();
    let error = client.ping(WITHIN).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no connection to {}", server.address()));
    server.start().unwrap();
    let node = loop {
        match client.get("/one", WITHIN).await {
            Ok(node) => break node,
            Err(ZooKeeperError::Connect { .. } | ZooKeeperError::Slow { .. }) => {
                // waits: for the server to be there again
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(node.unwrap().own, "the same session");
}

#[tokio::test]
async fn the_next_server_is_asked_and_one_that_is_none_is_said() {
    let server = ZooKeeper::started().unwrap();
    ready(&server, options(&server, Duration::from_secs(5))).await;
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let servers = vec![address.clone(), server.address()];
    let mut client = Client::new(Options { servers, session: Duration::from_secs(5), digest: None });
    assert!(client.get("/", WITHIN).await.unwrap().is_some(), "the first one is silent");

    std::thread::spawn(move || {
        for mut connection in stranger.incoming().flatten() {
            // The first one is of the client above, which has gone.
            let _ = std::io::Write::write_all(&mut connection, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let options = Options { servers: vec![address.clone()], session: Duration::from_secs(5), digest: None };
    let error = Client::new(options).ping(WITHIN).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("no connection to {address}")), "{error}");
}

#[tokio::test]
async fn only_its_maker_may_change_what_is_owned() {
    let server = ZooKeeper::started().unwrap();
    let mut anyone = ready(&server, options(&server, Duration::from_secs(5))).await;
    let digest = Some(("me".to_owned(), "s3cret".to_owned()));
    let own = Options { digest, ..options(&server, Duration::from_secs(5)) };
    assert!(!format!("{own:?}").contains("s3cret"));
    let mut me = Client::new(own);
    me.create("/mine", b"1", Lifetime::Persistent, Acl::Owned, WITHIN).await.unwrap();
    let node = anyone.get("/mine", WITHIN).await.unwrap().unwrap();
    let refused = anyone.set("/mine", b"2", node.version, WITHIN).await;
    assert_eq!(refused.unwrap_err().to_string(), "write /mine: this user may not");
    me.set("/mine", b"2", node.version, WITHIN).await.unwrap();
    let unknown = anyone.create("/other", b"", Lifetime::Persistent, Acl::Owned, WITHIN).await;
    assert_eq!(code(unknown), Code::InvalidAcl);
}
