//! Peers on loopback: the handshake, its failures, calls, restarts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_net::{CallError, Clients, Connection, FrameError, PeerClient, PeerHandler, PeerKey, PeerServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers with what was asked, backwards, and passes on what it reports.
struct Echo(mpsc::UnboundedSender<String>);

impl PeerHandler for Echo {
    fn handle(&self, mut request: Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send + '_>> {
        request.reverse();
        Box::pin(std::future::ready(Some(request)))
    }

    fn report(&self, error: FrameError) {
        self.0.send(error.to_string()).unwrap();
    }
}

async fn echo(key: &PeerKey, address: &str) -> (PeerServer, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    (PeerServer::start(listener, key.clone(), Arc::new(Echo(sender)), Clients::default()).unwrap(), receiver)
}

#[tokio::test]
async fn a_call_is_answered_also_after_the_peer_restarted() {
    let key = PeerKey::derive(Some("secret"));
    let (server, _reports) = echo(&key, "127.0.0.1:0").await;
    let address = server.address().to_string();
    let client = PeerClient::new(address.clone(), key.clone());
    assert_eq!(client.call(b"abc", DEADLINE).await.unwrap(), b"cba");
    assert_eq!(client.call(&vec![7; 1_000_000], DEADLINE).await.unwrap().len(), 1_000_000);
    server.stop().await;
    assert!(matches!(client.call(b"abc", DEADLINE).await, Err(CallError::NotSent { .. })));
    let (_server, _reports) = echo(&key, &address).await;
    assert_eq!(client.call(b"abc", DEADLINE).await.unwrap(), b"cba", "the kept connection was not used");
}

#[tokio::test]
async fn different_passwords_are_named_on_both_sides() {
    let (server, mut reports) = echo(&PeerKey::derive(Some("one")), "127.0.0.1:0").await;
    for other in [Some("two"), None] {
        let client = PeerClient::new(server.address().to_string(), PeerKey::derive(other));
        let Err(CallError::NotSent { source, .. }) = client.call(b"abc", DEADLINE).await else { panic!("let in") };
        assert!(source.to_string().contains("the password in raft.password differs"), "{source}");
        let report = reports.recv().await.unwrap();
        assert!(report.contains("the password in raft.password differs"), "{report}");
    }
}

#[tokio::test]
async fn another_protocol_is_named() {
    let (server, mut reports) = echo(&PeerKey::derive(None), "127.0.0.1:0").await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(reports.recv().await.unwrap().contains("does not speak this version"));
}

/// Passes bytes on between a client and `to`, and gives each direction to `change` first.
async fn relay(
    to: std::net::SocketAddr,
    change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = async {
            let mut buffer = vec![0; 4096];
            while let Ok(count) = from_client.read(&mut buffer).await {
                if count == 0 {
                    return;
                }
                let mut bytes = buffer[..count].to_vec();
                change(&mut bytes);
                if to_server.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let back = tokio::io::copy(&mut from_server, &mut to_client);
        tokio::select! { () = there => (), result = back => drop(result) }
    });
    address
}

#[tokio::test]
async fn changed_and_repeated_frames_are_found_out() {
    for repeat in [false, true] {
        let key = PeerKey::derive(Some("secret"));
        let (server, mut reports) = echo(&key, "127.0.0.1:0").await;
        let seen = Mutex::new(0);
        let address = relay(server.address(), move |bytes| {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            // The first two writes are the handshake.
            if *seen == 3 && repeat {
                let again = bytes.clone();
                bytes.extend(again);
            } else if *seen == 3 {
                bytes[5] ^= 1;
            }
        })
        .await;
        let mut connection = Connection::connect(&address.to_string(), &key, DEADLINE).await.unwrap();
        connection.send(b"abcdef").await.unwrap();
        assert!(reports.recv().await.unwrap().contains("changed or injected"));
    }
}

#[tokio::test]
async fn a_silent_peer_costs_no_more_than_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = PeerClient::new(listener.local_addr().unwrap().to_string(), PeerKey::derive(None));
    let error = client.call(b"abc", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { source: FrameError::Timeout { .. }, .. }), "{error:?}");
}
