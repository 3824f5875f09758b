//! What a trial found.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Pretty,
    /// For programs.
    Json,
}

/// Counts, times, and broken promises.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    trial: &'static str,
    seed: u64,
    /// How often what happened.
    counts: BTreeMap<String, u64>,
    /// For each kind of answer, how often each text came.
    reasons: BTreeMap<String, BTreeMap<String, u64>>,
    /// Times in milliseconds, by what was measured.
    times_ms: BTreeMap<String, Times>,
    /// Promises that were broken.
    failures: Vec<String>,
}

/// Measured times, in milliseconds.
#[derive(Debug, Default, Serialize)]
struct Times {
    least: u64,
    median: u64,
    most: u64,
    #[serde(skip)]
    all: Vec<u64>,
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(trial: &'static str, seed: u64) -> Self {
        let (counts, reasons, times_ms) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { trial, seed, counts, reasons, times_ms, failures: Vec::new() }
    }

    /// Adds to a count. Adding 0 shows that it was looked for.
    pub(crate) fn count(&mut self, what: &str, number: usize) {
        *self.counts.entry(what.to_owned()).or_default() += u64::try_from(number).unwrap_or(u64::MAX);
    }

    /// One more of this kind, for this reason.
    pub(crate) fn reason(&mut self, kind: &str, text: &str) {
        *self.reasons.entry(kind.to_owned()).or_default().entry(text.to_owned()).or_default() += 1;
    }

    /// One more time.
    pub(crate) fn time(&mut self, what: &str, time: Duration) {
        let times = self.times_ms.entry(what.to_owned()).or_default();
        times.all.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        times.all.sort_unstable();
        times.least = times.all[0];
        times.most = times.all[times.all.len() - 1];
        times.median = times.all[times.all.len() / 2];
    }

    /// A promise was broken.
    pub(crate) fn fail(&mut self, what: String) {
        crate::note(&format!("BROKEN: {what}"));
        self.failures.push(what);
    }

    /// The broken promises.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self, format: Format) {
        let text = match format {
            Format::Pretty => self.pretty(),
            Format::Json => serde_json::to_string_pretty(self).unwrap_or_else(|error| error.to_string()),
        };
        // Losing it is right: a closed pipe wants to hear no more, and the exit code tells the verdict.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
    }

    fn pretty(&self) -> String {
        let mut text = format!("trial {}, seed {}\n", self.trial, self.seed);
        for (what, number) in &self.counts {
            text.push_str(&format!("  {number:>6}  {what}\n"));
        }
        for (what, times) in &self.times_ms {
            let Times { least, median, most, all } = times;
            let number = all.len();
            text.push_str(&format!("  {what}: median {median} ms, {least} to {most} ms ({number} times)\n"));
        }
        for (kind, reasons) in &self.reasons {
            text.push_str(&format!("{kind}:\n"));
            let mut sorted: Vec<_> = reasons.iter().collect();
            sorted.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
            for (reason, number) in sorted {
                text.push_str(&format!("  {number:>6}  {reason}\n"));
            }
        }
        match &self.failures[..] {
            [] => text.push_str("every promise held\n"),
            broken => {
                text.push_str(&format!("{} BROKEN:\n", broken.len()));
                for line in broken {
                    text.push_str(&format!("  {line}\n"));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_sorts() {
        let mut report = Report::new("switchover", 7);
        report.count("switched", 2);
        report.count("lost rows", 0);
        report.reason("refused", "not streaming");
        report.reason("refused", "not streaming");
        report.reason("refused", "behind");
        for millis in [30, 10, 20] {
            report.time("write gap", Duration::from_millis(millis));
        }
        let text = report.pretty();
        assert!(text.contains("       2  switched\n"), "{text}");
        assert!(text.contains("median 20 ms, 10 to 30 ms (3 times)"), "{text}");
        assert!(text.find("not streaming") < text.find("behind"), "{text}");
        assert!(text.ends_with("every promise held\n"), "{text}");
    }
}
