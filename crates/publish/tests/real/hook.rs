//! An HTTP server that does as it is told, and remembers what it got.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use pgbaton_publish::Event;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What it does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// Answers with this status.
    Status(u16),
    /// Says nothing, and keeps the connection.
    Never,
    /// Takes it, and does not come to an end with its answer.
    Endless,
    /// Closes the connection.
    Close,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn event(&self) -> Event {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Hook {
    /// Answers the first requests as told, and all later ones as the last.
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        Self::start_with(answers, None)
    }

    pub(crate) fn start_with(answers: Vec<Answer>, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let (shared, tls) = (Arc::clone(&got), tls.map(Arc::new));
        std::thread::spawn(move || {
            let mut silent: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming().flatten() {
                let number = shared.lock().unwrap().len();
                let answer = answers.get(number).or(answers.last()).copied().unwrap_or(Answer::Close);
                let kept = stream.try_clone().unwrap();
                match &tls {
                    None => serve(stream, answer, &shared),
                    Some(config) => {
                        let session = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(session, stream), answer, &shared);
                    }
                }
                if matches!(answer, Answer::Never | Answer::Endless) {
                    silent.push(kept);
                }
            }
        });
        Self { address, got }
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Number and name of each event, in the order in which they came.
    pub(crate) fn events(&self) -> Vec<(u64, String)> {
        self.got().iter().map(|got| (got.event().sequence, got.event().event.to_string())).collect()
    }
}

/// Reads one request, and answers it.
fn serve(stream: impl Read + Write, answer: Answer, got: &Mutex<Vec<Got>>) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read(&mut stream) else { return };
    // Before the answer: whoever has that may look at once.
    got.lock().unwrap().push(request);
    if let Answer::Status(status) = answer {
        let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        // Who has gone meanwhile does not hear it.
        let _ = stream.get_mut().write_all(answer.as_bytes());
    }
    if matches!(answer, Answer::Endless) {
        // Who has gone meanwhile does not hear it.
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 So\r\n\r\nand ");
    }
}

/// Reads one request; none: who came has gone.
fn read(stream: &mut impl BufRead) -> Option<Got> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Got { path, headers, body })
}
