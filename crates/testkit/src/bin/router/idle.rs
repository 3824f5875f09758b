//! Memory of connections that say nothing, in front of a server that is only as much of one as they need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbaton_testkit::etcd::Etcd;
use pgbaton_testkit::router::Router;
use pgbaton_testkit::wait;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

use crate::balancer::{Haproxy, Kind};
use crate::{LIMIT, Outcome};

/// `StartupMessage` of protocol 3.0 with a user (PostgreSQL documentation, "Message Formats").
const STARTUP: &[u8] = b"\0\0\0\x14\0\x03\0\0user\0bench\0\0";
/// `AuthenticationOk`.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// A server that welcomes everybody and says nothing more.
struct Sink {
    at: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How much memory so many connections cost, in MiB, over what there was before them.
pub(crate) fn run(kind: Kind, connections: usize, pgbaton: &Path) -> Outcome<f64> {
    raise_limit()?;
    let sink = Sink::start(connections + 10)?;
    match kind {
        Kind::Direct => Err("there is nothing in between".into()),
        Kind::Haproxy => {
            let haproxy = Haproxy::before(sink.at, connections + 100)?;
            let at = SocketAddr::from(([127, 0, 0, 1], haproxy.port.port()));
            hold(at, haproxy.process.pid(), connections)
        }
        Kind::Router => {
            let etcd = Etcd::start(1)?;
            let endpoint = etcd.endpoint(0);
            let record = format!(
                r#"{{"conn_url":"postgres://{}/postgres","api_url":"http://127.0.0.1:1/patroni","state":"running","role":"primary"}}"#,
                sink.at
            );
            for (key, value) in [("members/a", record.as_str()), ("leader", "a")] {
                wait::until("etcd to take a key", LIMIT, || {
                    let put = Command::new("/usr/bin/etcdctl")
                        .env("ETCDCTL_API", "3")
                        .args(["--endpoints", &endpoint, "put", &format!("/service/test/{key}"), value])
                        .output();
                    put.map_err(|error| error.to_string()).and_then(|put| {
                        if put.status.success() {
                            Ok(())
                        } else {
                            Err(String::from_utf8_lossy(&put.stderr).into_owned())
                        }
                    })
                })?;
            }
            let settings = format!("  sessions_max: {}\n", connections * 2);
            let store = format!("etcd3:\n  hosts: {endpoint}\n");
            let router = Router::start_on(pgbaton, &store, &settings, "")?;
            hold(router.writes(), router.pid(), connections)
        }
    }
}

fn hold(at: SocketAddr, pid: Pid, connections: usize) -> Outcome<f64> {
    let mut open = vec![wait::until("the way to the server", LIMIT, || begin(at).map_err(|error| error.to_string()))?];
    while open.len() < connections {
        open.push(begin(at)?);
    }
    // waits: for what the last connections needed to begin to be given back
    std::thread::sleep(Duration::from_secs(1));
    memory(pid)
}

fn begin(at: SocketAddr) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(STARTUP)?;
    let mut welcome = [0; WELCOME.len()];
    stream.read_exact(&mut welcome)?;
    if welcome == *WELCOME { Ok(stream) } else { Err("the server was not reached".into()) }
}

impl Sink {
    fn start(connections: usize) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut open = Vec::new();
            while open.len() < connections {
                let Ok((mut stream, _)) = listener.accept() else { return };
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // One that went at once is no connection.
                if stream.read_exact(&mut [0; STARTUP.len()]).is_ok() && stream.write_all(WELCOME).is_ok() {
                    open.push(stream);
                }
            }
        });
        Ok(Self { at, over, thread: Some(thread) })
    }
}

impl Drop for Sink {
    /// The descriptors of its connections are needed for the next round.
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // It wakes the thread; one that has ended is not there any more.
        let _ = TcpStream::connect(self.at);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has nothing open, either.
            let _ = thread.join();
        }
    }
}

fn memory(pid: Pid) -> Outcome<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no line Pss")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1024.0)
}

/// Each connection is two descriptors here, and two in between.
fn raise_limit() -> Outcome {
    let most = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?)
}
