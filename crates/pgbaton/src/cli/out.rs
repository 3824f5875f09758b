use std::io::{self, IsTerminal, Write};

use crate::cli::Failure;

/// Standard output. A reader that has gone ends the command quietly.
pub(crate) struct Out {
    stdout: io::Stdout,
}

impl Out {
    /// The output of this process.
    pub(crate) fn new() -> Self {
        Self { stdout: io::stdout() }
    }

    /// Writes one line, or several, and shows them at once.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.raw(&format!("{text}\n"))
    }

    /// Writes text as it is and shows it at once.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe { Failure::Closed } else { Failure::Output(error) }
        })
    }

    /// Writes a document as one line of JSON.
    pub(crate) fn json(&mut self, document: &serde_json::Value) -> Result<(), Failure> {
        self.line(&document.to_string())
    }

    /// Whether a person watches.
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout.is_terminal()
    }
}
