//! Errors as one line of text.

use std::error::Error;
use std::fmt::Write as _;

/// An error with its causes, separated by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some foreign errors repeat their cause.
        if !text.ends_with(&part) {
            write!(text, ": {part}").expect("writing to a string cannot fail");
        }
        cause = error.source();
    }
    text
}
