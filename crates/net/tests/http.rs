//! The HTTP client against the HTTP server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use pgbaton_net::{HttpClient, HttpError, HttpServer, ServerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(10);

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/never" {
        std::future::pending::<()>().await;
    }
    let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let head = format!("{} {} {}", request.method(), request.uri().path(), authorization.unwrap_or_default());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from([head.as_bytes(), b" ", &body].concat())))
}

async fn server(limits: ServerLimits) -> (HttpServer, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, service_fn(answer), limits).unwrap();
    let url = format!("http://{}", server.address());
    (server, url)
}

#[tokio::test]
async fn calls_are_answered() {
    let (_server, url) = server(ServerLimits::default()).await;
    let client = HttpClient::new();
    assert_eq!(client.get(&format!("{url}/a"), DEADLINE).await.unwrap().body, "GET /a  ");
    let client = client.with_basic_auth("user", "pass").unwrap();
    let patched = client.patch(&format!("{url}/b"), b"{}".to_vec(), DEADLINE).await.unwrap();
    assert_eq!(patched.body, "PATCH /b Basic dXNlcjpwYXNz {}");
}

#[tokio::test]
async fn failures_say_whether_the_request_may_have_been_acted_on() {
    let (server, url) = server(ServerLimits { stop_within: Duration::from_millis(10), ..Default::default() }).await;
    let client = HttpClient::new();
    let late = client.get(&format!("{url}/never"), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(late, HttpError::Timeout { .. }), "{late:?}");
    server.stop().await;
    let refused = client.get(&format!("{url}/a"), DEADLINE).await.unwrap_err();
    assert!(matches!(refused, HttpError::Connect { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_client_that_sends_no_head_is_let_go() {
    let (server, _url) = server(ServerLimits { head_within: Duration::from_millis(50), ..Default::default() }).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTT").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("closed by the server").unwrap();
}

#[tokio::test]
async fn stopping_ends_even_with_a_request_that_never_ends() {
    let (server, url) = server(ServerLimits { stop_within: Duration::from_millis(50), ..Default::default() }).await;
    let url = format!("{url}/never");
    let call = tokio::spawn(async move { HttpClient::new().get(&url, DEADLINE).await });
    server.stop().await;
    assert!(call.await.unwrap().is_err());
}
