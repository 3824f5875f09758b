//! Counting: each test and each check is one thing that passed, failed or was skipped.

use std::process::Command;

use crate::run::{self, Failure, Outcome, say};

/// What has been counted so far, and what failed by name.
#[derive(Debug)]
pub(crate) struct Checks {
    /// When it began, in seconds since this machine was started.
    begun: f64,
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Nothing is counted yet.
    pub(crate) fn begin() -> Self {
        Self { begun: run::uptime_seconds(), passed: 0, failed: 0, skipped: 0, failures: Vec::new() }
    }

    /// Counts one check by its outcome and prints its verdict.
    pub(crate) fn count(&mut self, name: &str, check: impl FnOnce() -> Outcome) {
        let begun = run::uptime_seconds();
        match check() {
            Ok(()) => {
                self.passed += 1;
                say(&format!("ok: {name} ({:.0} s)", run::uptime_seconds() - begun));
            }
            Err(failure) => self.fail(name, &failure),
        }
    }

    /// Counts one check that cannot be made here.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        say(&format!("skipped: {name}: {reason}"));
    }

    /// Runs a test runner and counts each of its tests; a runner that ends badly without a failed test counts as one
    /// failed check, so that a broken build never looks like "0 failed".
    pub(crate) fn count_tests(&mut self, name: &str, command: &mut Command) {
        let (status, output) = match run::run_and_keep(command) {
            Ok(result) => result,
            Err(failure) => return self.fail(name, &failure),
        };
        let tally = Tally::read(&output);
        self.passed += tally.passed;
        self.failed += tally.failed;
        self.skipped += tally.skipped;
        if tally.failed > 0 {
            self.failures.push(format!("{name}: {} tests", tally.failed));
        } else if !status.success() {
            self.fail(name, &Failure(format!("the tests could not be built or run to their end: {status}")));
        }
    }

    /// Prints the failures, how long everything took and then, alone on the last line, the count.
    pub(crate) fn close(self) -> Outcome {
        for failure in &self.failures {
            say(&format!("failed: {failure}"));
        }
        say(&format!("everything took {:.0} s", run::uptime_seconds() - self.begun));
        say(&closing_line(self.passed, self.failed, self.skipped));
        if self.failed == 0 { Ok(()) } else { Err(Failure::COUNTED) }
    }

    fn fail(&mut self, name: &str, failure: &Failure) {
        self.failed += 1;
        say(&format!("FAILED: {name}: {failure}"));
        self.failures.push(format!("{name}: {failure}"));
    }
}

fn closing_line(passed: usize, failed: usize, skipped: usize) -> String {
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!("{passed} passed, {failed} failed{skipped}")
}

/// What a test runner says that it counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Reads the summaries of cargo-nextest (one) and of cargo's own harness (one for each test binary).
    fn read(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if let Some((_, summary)) = line
                .trim_start()
                .strip_prefix("Summary [")
                .and_then(|rest| rest.split_once("tests run:").or(rest.split_once("test run:")))
            {
                tally.passed += number_before(summary, "passed");
                // A test that timed out or could not be started has failed as well as one that panicked.
                tally.failed += ["failed", "timed out", "exec failed"]
                    .map(|word| number_before(summary, word))
                    .iter()
                    .sum::<usize>();
                tally.skipped += number_before(summary, "skipped");
            } else if let Some(summary) = line.strip_prefix("test result: ") {
                // Not indented: that is what nextest repeats of a test that failed.
                tally.passed += number_before(summary, "passed");
                tally.failed += number_before(summary, "failed");
                tally.skipped += number_before(summary, "ignored");
            }
        }
        tally
    }
}

/// The number in front of `word` in a list such as "3 passed (1 slow), 1 failed; 0 ignored".
fn number_before(summary: &str, word: &str) -> usize {
    let part = summary.split([',', ';', '.', '(']).map(str::trim).find_map(|part| part.strip_suffix(word));
    part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_nextest_is_read() {
        let output = "     Summary [   1.204s] 12 tests run: 9 passed (1 slow), 2 failed, 1 timed out, 4 skipped\n";
        assert_eq!(Tally::read(output), Tally { passed: 9, failed: 3, skipped: 4 });
        let repeated = format!("    test result: FAILED. 0 passed; 1 failed; 0 ignored\n{output}");
        assert_eq!(Tally::read(&repeated), Tally { passed: 9, failed: 3, skipped: 4 }, "one failure, counted once");
    }

    #[test]
    fn the_summaries_of_cargo_test_add_up() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                      test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Tally::read(output), Tally { passed: 4, failed: 2, skipped: 1 });
    }

    #[test]
    fn the_closing_line_names_skipped_checks_only_when_there_are_any() {
        assert_eq!(closing_line(3, 0, 0), "3 passed, 0 failed");
        assert_eq!(closing_line(3, 1, 2), "3 passed, 1 failed, 2 skipped");
    }
}
