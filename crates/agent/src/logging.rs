//! The log: lines on standard error, never waited for. When whoever reads them does not keep up, lines are dropped and counted; a full pipe
//! must not stop the lease's keeper.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pgbaton_config::LogLevel;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: some seconds of a busy log.
const LINES_MAX: usize = 1024;

/// How long the end of the process waits for the last lines: why it ends is among them, but a reader that does not keep up must not
/// hold up the guard, which waits for this process.
const FINISH_TIME: Duration = Duration::from_millis(500);

/// The way to the thread that writes, once there is one.
static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();

/// What that thread is given.
enum Message {
    Line(Vec<u8>),
    /// Everything before this is written: say so.
    Finish(SyncSender<()>),
}

/// Sets the log up for the whole process; `RUST_LOG` wins over the configuration.
pub fn start(level: LogLevel) {
    let (sender, lines) = sync_channel(LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Lines { sender: sender.clone(), lost: Arc::clone(&lost) };
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
    // The first one stays: there is one log for the process.
    QUEUE.get_or_init(|| sender);
    std::thread::spawn(move || write_all(&lines, &lost));
}

/// Waits until what was said so far is written: the last thing before the process ends.
pub fn finish() {
    let (done, written) = sync_channel(1);
    if QUEUE.get().is_some_and(|queue| queue.try_send(Message::Finish(done)).is_ok()) {
        // Whether it came in time or not, the process ends.
        let _ = written.recv_timeout(FINISH_TIME);
    }
}

fn write_all(lines: &Receiver<Message>, lost: &AtomicU64) {
    for message in lines {
        let line = match message {
            Message::Line(line) => line,
            Message::Finish(done) => {
                // Who asked may have stopped waiting.
                let _ = done.send(());
                continue;
            }
        };
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
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
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
