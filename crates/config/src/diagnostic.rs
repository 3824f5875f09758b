use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The agent starts; what the finding names has no effect.
    Warning,
    /// The agent does not start, or the new document is not stored.
    Error,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file, or the name of an environment variable; empty for a document that is in no file.
    pub file: Arc<str>,
    /// Line from 1; 0 where there are no lines (an environment variable, a JSON document from the store).
    pub line: u64,
    /// Column in characters from 1; 0 together with line 0.
    pub column: u64,
    /// The text of the line, for the message. Absent where it may hold a secret.
    pub text: Option<Arc<str>>,
}

/// One finding about the configuration, with its place and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it stops the start.
    pub severity: Severity,
    /// The key with its parents, such as `postgresql.listen`; empty when no key is meant.
    pub path: String,
    /// The file or environment variable; empty for a document that is in no file.
    pub file: String,
    /// Line from 1; 0 where there are no lines.
    pub line: u64,
    /// Column in characters from 1; 0 together with line 0.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// What to do; empty when the message says it.
    pub help: String,
    /// The line itself, never one that may hold a secret.
    #[serde(skip)]
    pub text: Option<Arc<str>>,
}

impl Diagnostic {
    pub(crate) fn new(severity: Severity, path: &str, place: &Place, message: String, help: &str) -> Self {
        Self {
            severity,
            path: path.to_owned(),
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
            message,
            help: help.to_owned(),
            text: place.text.clone(),
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        Place { file: self.file.as_str().into(), line: self.line, column: self.column, text: self.text.clone() }
    }

    /// Whether the finding stops the start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The finding without its place and line, for a log line or a reply: message, then what to do.
    pub fn summary(&self) -> String {
        if self.help.is_empty() { self.message.clone() } else { format!("{}: {}", self.message, self.help) }
    }
}

impl fmt::Display for Diagnostic {
    /// Several lines, in the form that compilers use; no newline at the end.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_error() { "error" } else { "warning" };
        write!(formatter, "{kind}: {}", self.message)?;
        if !self.file.is_empty() {
            write!(formatter, "\n --> {}", self.file)?;
            if self.line > 0 {
                write!(formatter, ":{}:{}", self.line, self.column)?;
            }
        }
        if let Some(text) = &self.text {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(usize::try_from(self.column.saturating_sub(1)).unwrap_or(0));
            write!(formatter, "\n{margin} |\n{number} | {text}\n{margin} | {indent}^")?;
        }
        if !self.help.is_empty() {
            write!(formatter, "\n  = help: {}", self.help)?;
        }
        Ok(())
    }
}

/// Collects findings while a document is read: one wrong value does not hide the next.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Diagnostic>,
}

impl Findings {
    pub(crate) fn error(&mut self, path: &str, place: &Place, message: String, help: &str) {
        self.list.push(Diagnostic::new(Severity::Error, path, place, message, help));
    }

    pub(crate) fn warning(&mut self, path: &str, place: &Place, message: String, help: &str) {
        self.list.push(Diagnostic::new(Severity::Warning, path, place, message, help));
    }

    /// How many errors were found so far.
    pub(crate) fn error_count(&self) -> usize {
        self.list.iter().filter(|finding| finding.is_error()).count()
    }

    /// Everything found, in the order of the file.
    pub(crate) fn into_list(self) -> Vec<Diagnostic> {
        let mut list = self.list;
        list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        list.dedup();
        list
    }
}
