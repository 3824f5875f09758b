//! Runs the stories in `tests/stories/*.txt`: what a member sees, line by line, and what it decides.
//!
//! `UPDATE=1 cargo nextest run -p pgbaton-core --test stories` rewrites the expected blocks; the diff is the review.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

mod story;

fn stories() -> Vec<PathBuf> {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/stories");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_story_ends_as_told() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut differing = Vec::new();
    let files = stories();
    assert!(files.len() >= 10, "only {} stories were found", files.len());
    for path in files {
        let told = fs::read_to_string(&path).unwrap();
        let happened = story::run(&told).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if happened != told {
            if update {
                fs::write(&path, &happened).unwrap();
            } else {
                differing.push(format!("{}:\n{}", path.display(), first_difference(&told, &happened)));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

fn first_difference(told: &str, happened: &str) -> String {
    for (number, (left, right)) in told.lines().zip(happened.lines()).enumerate() {
        if left != right {
            return format!("  line {}\n    told:     {left}\n    happened: {right}", number + 1);
        }
    }
    format!("  told {} lines, {} happened", told.lines().count(), happened.lines().count())
}

#[test]
fn a_line_that_is_not_understood_is_named() {
    let error = story::run("me a\nserver flying\n").unwrap_err();
    assert!(error.contains("line 2") && error.contains("flying"), "{error}");
}
