//! The log: lines on standard error, never waited for. When whoever reads them does not keep up, lines are dropped and counted; a full pipe
//! must not stop the lease's keeper.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pgbaton_config::LogLevel;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: some seconds of a busy log.
const LINES_MAX: usize = 1024;

/// Sets the log up for the whole process; `RUST_LOG` wins over the configuration.
pub(crate) fn start(level: LogLevel) {
    let (sender, lines) = sync_channel(LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Lines { sender, lost: Arc::clone(&lost) };
    let level = match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warning => Level::WARN,
        LogLevel::Error => Level::ERROR,
    };
    // Raft tells of every election and every lost connection; what matters of it our own crates say.
    let default =
        if level == Level::DEBUG { "debug,openraft=info".to_owned() } else { format!("{level},openraft=error") };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let built =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false).with_writer(writer);
    if built.try_init().is_err() {
        tracing::debug!("a log is there already");
        return;
    }
    std::thread::spawn(move || write_all(&lines, &lost));
}

fn write_all(lines: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    for line in lines {
        let mut stderr = io::stderr().lock();
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            // There is no other place to say it.
            let _ = writeln!(stderr, "({lost} lines of the log were dropped)");
        }
        // As above.
        let _ = stderr.write_all(&line);
    }
}

#[derive(Clone)]
struct Lines {
    sender: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(line.to_vec()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
