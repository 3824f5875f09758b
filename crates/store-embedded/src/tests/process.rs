use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};

use crate::{EmbeddedStore, Listen, Options};

/// Names the variables that make this test's program a member: directory, own address, the others' addresses.
const DIRECTORY: &str = "PGBATON_TEST_DIRECTORY";
const ADDRESS: &str = "PGBATON_TEST_ADDRESS";
const PARTNERS: &str = "PGBATON_TEST_PARTNERS";

/// A member in a process of its own: this test program again, told by its environment to be one. Killed when dropped.
pub(super) struct Process {
    child: Child,
    pub(super) output: BufReader<ChildStdout>,
}

impl Process {
    /// Runs `test` of this program as a member. Its listener is handed over as standard input, so that the port is never free.
    pub(super) fn spawn(
        test: &str,
        listener: Option<TcpListener>,
        directory: &Path,
        address: &str,
        partners: &[String],
    ) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(DIRECTORY, directory)
            .env(ADDRESS, address)
            .env(PARTNERS, partners.join(","))
            .stdin(listener.map_or_else(Stdio::null, |listener| Stdio::from(OwnedFd::from(listener))))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line beginning with `mark`, without it; `None` at the end of the output.
    pub(super) fn line(&mut self, mark: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness writes its own text before ours.
            if let Some(rest) = line.find(mark).filter(|_| line.ends_with('\n')) {
                return Some(line[rest + mark.len()..].trim().to_owned());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a process that was made by [`Process::spawn`]: its store. `None` in the test itself.
pub(super) async fn child_store() -> Option<Arc<EmbeddedStore>> {
    let directory = std::env::var_os(DIRECTORY)?;
    let parent = getppid();
    // Not even a killed test leaves a process behind.
    std::thread::spawn(move || {
        while getppid() == parent {
            // waits: the end of the parent gives no event here
            std::thread::sleep(Duration::from_millis(100));
        }
        std::process::exit(1);
    });
    let partners = std::env::var(PARTNERS).unwrap();
    let partners: Vec<String> = partners.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let listen = (!partners.is_empty()).then(|| {
        let input = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        Listen::On(TcpListener::from(input))
    });
    let options = Options {
        listen,
        self_address: std::env::var(ADDRESS).unwrap(),
        partner_addresses: partners,
        password: Some("secret".to_owned()),
        ..Options::alone(directory)
    };
    Some(EmbeddedStore::open(options).await.unwrap())
}
