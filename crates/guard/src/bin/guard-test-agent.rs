//! The guard's test double for `pgbaton`: the same executable is the guard and a scripted agent.
//!
//! `guard-test-agent become DIR` becomes the guard of an agent that does what it is told, one line at a time, over the
//! socket `DIR/agent.sock`. `DIR/exit` makes it exit with the code written there instead; `DIR/stubborn` makes it
//! ignore SIGTERM; `DIR/last-resort` makes it kill what is left of the server once its guard is gone; `DIR/impatient`
//! makes the guard wait only shortly for its end.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_guard::client::{self, Client, ClientError, Event};
use pgbaton_guard::wire::{Disarm, ServerCommand};
use pgbaton_guard::{Options, become_guard, run};
use pgbaton_sys::Signal;
use pgbaton_sys::signals::SignalFd;
use pgbaton_sys::timer::wait_readable;

type AnyError = Box<dyn std::error::Error>;

/// How long the agent may take to end in these tests: a shutdown with its checkpoint takes its time on a slow disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// The same where the end does not come, and the test waits for what the guard does then.
const SHORT_STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Where Debian installs the server that the tests run.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";

fn main() -> Result<ExitCode, AnyError> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let [name, role, directory] = arguments.as_slice() else { return Err("usage: become|guard|agent DIR".into()) };
    match role.to_str() {
        Some("become") => Err(become_guard(&[name.clone(), "guard".into(), directory.clone()]).into()),
        Some("guard") => {
            let arguments = vec![name.clone(), "agent".into(), directory.clone()];
            let impatient = Path::new(directory).join("impatient").exists();
            let stop_timeout = if impatient { SHORT_STOP_TIMEOUT } else { STOP_TIMEOUT };
            let options = Options { program: std::env::current_exe()?, arguments, stop_timeout };
            Ok(run(&options)?.into())
        }
        Some("agent") => agent(Path::new(directory)),
        _ => Err("no such role".into()),
    }
}

fn agent(directory: &Path) -> Result<ExitCode, AnyError> {
    if let Ok(code) = std::fs::read_to_string(directory.join("exit")) {
        return Ok(code.trim().parse::<u8>()?.into());
    }
    let signals = SignalFd::new(&[Signal::TERM])?;
    let (events, arrived) = std::sync::mpsc::channel();
    let sink = move |event| events.send(event).expect("the receiver lives as long as the process");
    let client = Arc::new(Client::from_environment(sink)?);
    let path = directory.join("agent.sock");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(path)?;
    let served = Arc::clone(&client);
    let home = directory.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (client, home) = (Arc::clone(&served), home.clone());
            std::thread::spawn(move || serve(&client, &home, &stream));
        }
    });
    loop {
        wait_readable(&[Some(signals.as_fd()), Some(client.as_fd())])?;
        let result = client.receive();
        if arrived.try_iter().any(|event| event == Event::GuardGone) || matches!(result, Err(ClientError::Gone)) {
            if directory.join("last-resort").exists() {
                client::kill_abandoned(&directory.join("data"))?;
            }
            return Ok(ExitCode::FAILURE);
        }
        result?;
        if signals.next()?.is_some() && !directory.join("stubborn").exists() {
            stop(&client)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Stops the server in an orderly way (fast shutdown) and waits until it is gone.
fn stop(client: &Client) -> Result<(), AnyError> {
    if client.status()?.postmaster.is_some() {
        client.signal(2)?;
        while client.status()?.tree_alive {
            wait_readable(&[Some(client.as_fd())])?;
            client.receive()?;
        }
    }
    Ok(())
}

fn serve(client: &Client, directory: &Path, stream: &UnixStream) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let answer = match obey(client, directory, &line) {
            Ok(answer) => format!("ok {answer}\n"),
            Err(error) => {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                format!("error {error}: {source}\n")
            }
        };
        let mut stream = stream;
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn obey(client: &Client, directory: &Path, line: &str) -> Result<String, AnyError> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["pid"] => return Ok(std::process::id().to_string()),
        ["status"] => return Ok(format!("{:?}", client.status()?)),
        ["pids"] => {
            let status = client.status()?;
            let postmaster = status.postmaster.map_or(0, |postmaster| postmaster.pid);
            return Ok(format!("{} {} {postmaster}", status.outer, status.inner));
        }
        ["start", role] => {
            client.start(&server(directory, *role == "primary"))?;
        }
        ["signal", number] => client.signal(number.parse()?)?,
        ["extend", epoch, deadline] => client.extend(epoch.parse()?, deadline.parse()?)?,
        ["disarm", "paused"] => client.disarm(Disarm::Paused)?,
        ["disarm", "standby"] => client.disarm(Disarm::Standby)?,
        ["disarm", "stopped"] => client.disarm(Disarm::Stopped)?,
        ["kill"] => client.kill()?,
        ["ready"] => client.ready()?,
        ["kill-guard"] => client.kill_guard()?,
        _ => return Err("what?".into()),
    }
    Ok(String::new())
}

fn server(directory: &Path, primary: bool) -> ServerCommand {
    let data: PathBuf = directory.join("data");
    ServerCommand {
        arguments: vec![POSTGRES.into(), "-D".into(), data.as_os_str().as_bytes().to_vec()],
        environment: vec!["LC_ALL=C".into()],
        directory: data.as_os_str().as_bytes().to_vec(),
        primary,
    }
}
