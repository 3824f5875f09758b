//! HAProxy's agent check (HAProxy configuration manual, "agent-check"): a connection, a line that says what is asked, a line with the answer.
//!
//! What is asked is a health check's path, such as `primary` or `replica?lag=16MB`; nothing means `primary`. HAProxy takes a silent agent for no news:
//! the health checks stay what notices a member that is gone.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::{Role, health_code};
use pgbaton_config::{HostPort, Listen};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::health;
use crate::shared::{Shared, Snapshot};

/// How long whoever asks may take to say what for: HAProxy sends it with the connection, and nothing when it is not configured.
const ASK_WITHIN: Duration = Duration::from_millis(300);
/// How long the answer may take to be taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The longest question.
const QUESTION_BYTES: usize = 256;
/// How many may ask at a time: some balancers for each of some services.
const ASKING_MAX: usize = 64;
/// Pause before another try for a port that cannot be had.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Keeps new connections away from a member, which is not a reason to end those that it has.
const NO_LOAD_BALANCE: &str = "noloadbalance";
/// The share of connections for a member, in percent of the weight in HAProxy's configuration.
const WEIGHT: &str = "router_weight";
/// The highest weight that HAProxy has.
const WEIGHT_MAX: u64 = 256;

/// Answers for as long as it is not dropped. A port that cannot be had is said, and tried again: it keeps nothing else from working.
pub(crate) async fn serve(listen: Listen, shared: Shared) {
    let asking = Arc::new(Semaphore::new(ASKING_MAX));
    let addresses = listen.hosts.iter().map(|host| {
        let host = if host == "*" { "0.0.0.0" } else { host };
        HostPort { host: host.to_owned(), port: listen.port }.to_string()
    });
    let serving = addresses.map(|address| serve_at(address, shared.clone(), Arc::clone(&asking)));
    futures::future::join_all(serving).await;
}

async fn serve_at(address: String, shared: Shared, asking: Arc<Semaphore>) {
    let mut said = false;
    loop {
        let listener = match TcpListener::bind(&address).await {
            Ok(listener) => listener,
            Err(error) => {
                if !said {
                    tracing::error!(%address, %error, "restapi.agent_check: nobody answers HAProxy's agent checks: free this port, or name another one");
                    said = true;
                }
                sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        loop {
            let Ok(permit) = Arc::clone(&asking).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a client that has gone again.
                    tracing::debug!(%address, %error, "an agent check was not answered");
                    sleep(ASK_WITHIN).await;
                    continue;
                }
            };
            let shared = shared.clone();
            tokio::spawn(async move {
                // Whoever does not take the answer asks again.
                let _ = timeout(ASK_WITHIN + ANSWER_WITHIN, converse(stream, &shared)).await;
                drop(permit);
            });
        }
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = [0; QUESTION_BYTES];
    let mut filled = 0;
    while filled < bytes.len() && !bytes[..filled].contains(&b'\n') {
        match timeout(ASK_WITHIN, stream.read(&mut bytes[filled..])).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(read) => filled += read?,
        }
    }
    let question = String::from_utf8_lossy(&bytes[..filled]).into_owned();
    let question = question.lines().next().unwrap_or_default().trim().trim_start_matches('/');
    let question = if question.is_empty() { "primary" } else { question };
    stream.write_all(answer(question, &shared.now()).as_bytes()).await?;
    stream.shutdown().await
}

/// The line for a health check's path.
fn answer(question: &str, now: &Snapshot) -> String {
    let (path, query) = question.split_once('?').unwrap_or((question, ""));
    let path = format!("/{path}");
    let code = health_code(&health::input(&path, query, now));
    let tags = &now.local.tags.published;
    if code == 200 {
        return format!("up ready{}\n", weight(tags));
    }
    let balanced: Map<String, Value> = tags
        .iter()
        .filter(|(name, _)| *name != NO_LOAD_BALANCE)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut input = health::input(&path, query, now);
    input.tags = &balanced;
    if health_code(&input) == 200 {
        return format!("drain #{NO_LOAD_BALANCE}\n");
    }
    let role = if now.role == Role::Primary { "primary" } else { "standby" };
    format!("down #not {question}: {role}\n")
}

fn weight(tags: &Map<String, Value>) -> String {
    match tags.get(WEIGHT).and_then(Value::as_u64) {
        Some(weight) => format!(" {}%", weight.min(WEIGHT_MAX)),
        None => String::new(),
    }
}
