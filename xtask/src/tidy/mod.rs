//! The rules of the repository that no compiler knows. Each violation is one line: where, what, what instead.

mod edges;
mod lexer;
mod source;

use std::fs;
use std::process::Command;

use crate::run::{self, Outcome, failure, say};

/// `cargo xtask tidy`.
pub(crate) fn run() -> Outcome {
    let mut violations = edges::check()?;
    for path in files()? {
        // A file that git still lists but that has just been deleted is no violation.
        let Ok(bytes) = fs::read(run::root().join(&path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            violations.extend(source::check(&path, &text));
        }
    }
    for violation in &violations {
        say(violation);
    }
    if violations.is_empty() {
        Ok(())
    } else {
        Err(failure!("{} violations of the repository's rules", violations.len()))
    }
}

/// What git knows or would add: everything but what `.gitignore` names.
fn files() -> Outcome<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(run::root());
    let mut files: Vec<String> = run::output(&mut git)?.lines().map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}
