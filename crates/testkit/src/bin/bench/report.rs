//! The result: medians, with what they were measured on and with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use serde_json::json;

use crate::Outcome;
use crate::deadline::Deadlines;
use crate::events::{Event, Sample};
use crate::system::Variant;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table, then the configurations
    Pretty,
    /// One JSON document with every sample
    Json,
}

/// All samples so far.
#[derive(Default)]
pub(crate) struct Report {
    // The number keeps systems and variants in the order in which they were measured.
    rows: BTreeMap<(Event, usize, &'static str), Row>,
    columns: Vec<(String, Variant, String)>,
    /// What the deadline of a lease did.
    pub(crate) deadlines: Vec<Deadlines>,
}

#[derive(Default)]
struct Row {
    values: Vec<f64>,
    lost_rows: Vec<usize>,
}

impl Report {
    /// Notes a configuration that is measured.
    pub(crate) fn configuration(&mut self, system: &str, variant: &Variant, text: &str) {
        self.columns.push((system.to_owned(), variant.clone(), text.to_owned()));
    }

    /// Adds a sample of the configuration noted last. A start that only served the other events is not a figure.
    pub(crate) fn add(&mut self, system: &str, variant: &Variant, sample: &Sample) {
        if !variant.events.contains(&sample.event) {
            return;
        }
        let place = self.columns.iter().position(|(name, noted, _)| name == system && noted.name == variant.name);
        let row = self.rows.entry((sample.event, place.unwrap_or_default(), sample.unit)).or_default();
        row.values.push(sample.value);
        row.lost_rows.extend(sample.lost_rows);
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self, format: Format) -> Outcome {
        let text = match format {
            Format::Pretty => self.pretty()?,
            Format::Json => format!("{:#}\n", self.json()),
        };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    fn pretty(&self) -> Result<String, std::fmt::Error> {
        let mut text = format!("{}\n\n", machine());
        let header = ("event", "system", "configuration", "median", "lowest", "highest", "rounds", "rows lost");
        let line = |text: &mut String, columns: [&str; 8]| {
            let [event, system, variant, median, low, high, rounds, lost] = columns;
            writeln!(text, "{event:42} {system:24} {variant:12} {median:>14} {low:>9} {high:>9} {rounds:>6} {lost:>9}")
        };
        let (event, system, variant, median, low, high, rounds, lost) = header;
        line(&mut text, [event, system, variant, median, low, high, rounds, lost])?;
        for ((event, place, unit), row) in &self.rows {
            let (system, variant, _) = &self.columns[*place];
            let lost =
                if row.lost_rows.is_empty() { "-".to_owned() } else { row.lost_rows.iter().sum::<usize>().to_string() };
            let figure = |value: f64| if *unit == "% CPU" { format!("{value:.2}") } else { format!("{value:.0}") };
            let (low, high) = (figure(percentile(&row.values, 0)), figure(percentile(&row.values, 100)));
            let median = format!("{} {unit}", figure(percentile(&row.values, 50)));
            let rounds = row.values.len().to_string();
            line(&mut text, [event.title(), system, variant.name, &median, &low, &high, &rounds, &lost])?;
        }
        for deadlines in &self.deadlines {
            text.push_str(&deadlines.pretty());
        }
        for (system, variant, configuration) in &self.columns {
            write!(text, "\n{system}, {}: the first member's configuration\n\n{configuration}", variant.name)?;
        }
        Ok(text)
    }

    fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().map(|((event, place, unit), row)| {
            let (system, variant, _) = &self.columns[*place];
            json!({
                "event": event.title(), "system": system, "configuration": variant.name, "unit": unit,
                "median": percentile(&row.values, 50), "values": row.values, "lost_rows": row.lost_rows,
            })
        });
        let configurations = self.columns.iter().map(|(system, variant, configuration)| {
            json!({"system": system, "configuration": variant.name, "yaml": configuration})
        });
        json!({"machine": machine(), "rows": rows.collect::<Vec<_>>(), "deadlines": self.deadlines, "configurations": configurations.collect::<Vec<_>>()})
    }
}

/// The value below which `percent` of the others are; the upper one of two in the middle.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// What it was measured on: kernel, processors, memory.
fn machine() -> String {
    let first = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = first("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024 / 1024;
    format!("Linux {}, {processors} processors, {memory} GiB of memory", first("/proc/sys/kernel/osrelease"))
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert!((percentile(&[30.0, 10.0, 20.0], 50) - 20.0).abs() < f64::EPSILON);
        assert!((percentile(&[5.0, 1.0, 2.0, 3.0, 4.0], 100) - 5.0).abs() < f64::EPSILON);
        assert!((percentile(&[5.0, 1.0], 0) - 1.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).is_nan());
    }
}
