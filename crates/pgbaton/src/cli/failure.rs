use std::error::Error;
use std::fmt::Write as _;
use std::io;

use pgbaton_config::LoadError;
use pgbaton_net::HttpError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Said in full by its text, which also says what to do.
    #[error("{0}")]
    Text(String),
    /// It was said already; only the exit code is left.
    #[error("failed")]
    Said,
    /// A command that was run has failed, and has said why.
    #[error("the command ended with {0}")]
    Code(u8),
    /// Ctrl-C, or another wish that it end.
    #[error("interrupted; everything that was started is stopped and removed")]
    Interrupted,
    /// The reader of the output has gone, as `head` does: nothing to complain about.
    #[error("the output was closed")]
    Closed,
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// A member gave no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Something with its cause.
    #[error("{what}")]
    Because {
        /// What failed.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Failure {
    /// A failure that its text explains.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A failure with its cause.
    pub(crate) fn because(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Because { what: what.into(), source: source.into() }
    }

    /// What an operator reads: the failure and its causes; none if nothing is left to say.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Said | Self::Closed | Self::Code(_) => None,
            // Its findings carry their own "error:".
            Self::Config(invalid @ LoadError::Invalid { .. }) => Some(invalid.to_string()),
            _ => {
                let mut text = format!("Error: {self}");
                let mut cause = self.source();
                while let Some(error) = cause {
                    // Writing to a `String` cannot fail.
                    write!(text, ": {error}").unwrap_or_default();
                    cause = error.source();
                }
                Some(text)
            }
        }
    }

    /// 0 only when nobody was left to read the output.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Code(code) => *code,
            _ => 1,
        }
    }
}
